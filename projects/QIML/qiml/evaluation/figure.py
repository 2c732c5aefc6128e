"""What is asked of Matplotlib before a measurement is drawn."""

from pathlib import Path

from qiml.errors import ConfigError


def check_picture(path: str | Path) -> None:
    """Refuse, before any work, a picture that could not be written.

    Args:
        path: picture that is to be written.

    Raises:
        ConfigError: Matplotlib is missing or does not know the extension.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
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
