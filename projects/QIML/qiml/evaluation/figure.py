"""Where pictures of measurements come from; Matplotlib is needed only here."""

from pathlib import Path

from qiml.errors import ConfigError


def figure_class(path: str | Path) -> type:
    """Matplotlib's Figure, which draws without a display and without global state.

    Args:
        path: picture that is to be written.

    Raises:
        ConfigError: Matplotlib is missing or does not know the extension.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            path, found="no Matplotlib", expected="Matplotlib", mend="pip install matplotlib"
        ) from error
    formats = FigureCanvasBase.get_supported_filetypes()
    extension = Path(path).suffix.removeprefix(".").lower()
    if extension not in formats:
        raise ConfigError(
            path,
            found=f"extension '.{extension}'",
            expected=f"one of {' '.join(formats)}",
            mend="name the picture like curves.png",
        )
    return Figure
