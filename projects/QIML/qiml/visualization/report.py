"""A report of one run or several, for the browser: one file that holds everything and asks for nothing.

On the command line: `python -m qiml.visualization.report --help`.
"""

import argparse
import base64
import logging
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import cv2
import jinja2
from markupsafe import Markup

from qiml.data.images import read_image
from qiml.errors import ConfigError, DatasetError, exit_on_error
from qiml.io import atomic_write_text
from qiml.visualization import canvas
from qiml.visualization.report_frames import Gallery, read_gallery
from qiml.visualization.report_run import Curve, Run, read_runs
from qiml.visualization.report_tables import kitti_tables, settings_table, waymo_table

FILE_NAME = "report.html"
PICTURES = 300
# Bytes of the whole file, to stay below which pictures are left out; detections never are.
SIZE_LIMIT = 28_000_000
_PICTURE_WIDTH = 720
_JPEG_QUALITY = 72
_POINTS = 800  # of a training curve
_SCRIPTS = ("page.js", "charts.js", "scene.js", "gallery.js")

logger = logging.getLogger(__name__)


def write_report(
    folders: Sequence[str | Path], output: str | Path | None = None, pictures: int = PICTURES
) -> Path:
    """Write the report of one run, or of several to compare them.

    Args:
        folders: OUTPUT_DIR of each run; changes are told against the first.
        output: file to write; None: report.html in the first folder.
        pictures: at most so many frames of each data set show their image, the worst ones; the others are
            drawn without.

    Returns:
        The file.

    Raises:
        DatasetError: a folder that is no run or holds no evaluation, or a malformed file in it.
        ConfigError: Plotly is missing, or `pictures` is negative.
    """
    if pictures < 0:
        raise ConfigError(
            "--pictures", found=str(pictures), expected="0 or more", mend="correct the number"
        )
    runs = read_runs(folders)
    output = Path(output) if output else runs[0].folder / FILE_NAME
    atomic_write_text(output, render(runs, pictures))
    return output


def render(runs: Sequence[Run], pictures: int = PICTURES) -> str:
    """The page as text; otherwise as :func:`write_report`."""
    galleries, notes = [], []
    for dataset in _names(run.kitti for run in runs):
        try:
            galleries.append(read_gallery(runs, dataset))
        except (DatasetError, ConfigError) as error:
            notes.append(f"No frames of {dataset} are shown. {error}")
    if any(run.waymo for run in runs):
        notes.append(
            "No frames of Waymo's are shown: detections are stored for its own tools only."
        )
    content = {
        "runs": [{"name": run.name, "metrics": _thinned(run.metrics)} for run in runs],
        "evaluations": {name: _plotted(runs, name) for name in _names(run.kitti for run in runs)},
        "galleries": [{"dataset": g.dataset, **g.content} for g in galleries],
        "colours": [_hexadecimal(canvas.class_colour(i)) for i in range(6)],
    }
    parts = {
        "runs": runs,
        "settings": settings_table(runs),
        "kitti": {name: kitti_tables(runs, name) for name in content["evaluations"]},
        "waymo": {name: waymo_table(runs, name) for name in _names(run.waymo for run in runs)},
        "notes": notes,
        "style": Markup(_template("report.css")),
        "scripts": [Markup(_template(name)) for name in _SCRIPTS],
        "plotly": Markup(_plotly()),
    }
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    page = environment.from_string(_template("report.html"))
    text = page.render(**parts, content=content, pictures=[{} for _ in galleries])
    room = SIZE_LIMIT - len(text.encode())
    shown = []
    for gallery in galleries:
        chosen = _pictures(gallery, pictures, room)
        room -= sum(map(len, chosen.values()))
        shown.append(chosen)
    return page.render(**parts, content=content, pictures=shown)


def _pictures(gallery: Gallery, count: int, room: int) -> dict[int, str]:
    """Frame number → data URI of its image, worst frames first, as long as there is room (bytes)."""
    chosen: dict[int, str] = {}
    for frame in gallery.worst_first[:count]:
        try:
            image = read_image(str(gallery.images[frame]))
        except DatasetError as error:  # drawn without it, as the frames that are not chosen
            logger.warning("The report leaves out a picture. %s", error)
            continue
        scale = _PICTURE_WIDTH / image.shape[1]
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
        text = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        room -= len(text) + 16
        if room < 0:
            break
        chosen[frame] = text
    return chosen


def _plotted(runs: Sequence[Run], dataset: str) -> dict:
    """What the charts of a KITTI evaluation show; a run that was not evaluated there has None."""
    reports = [run.kitti.get(dataset) for run in runs]
    first = next(report for report in reports if report)
    return {
        "order": first["order"],
        "recall": first["curves"]["recall"],
        "limits": {
            table: first[f"{prefix}min_overlap"]
            for table, prefix in (("strict", ""), ("relaxed", "relaxed_"))
            if f"{prefix}min_overlap" in first
        },
        "precision": [report and _rounded(report["curves"]["precision"]) for report in reports],
        "depth": [report and report["depth_errors"] for report in reports],
    }


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [round(number, 4) for number in value]


def _thinned(metrics: dict[str, Curve]) -> dict[str, Curve]:
    """Every n-th point of long curves, the last one always."""
    thinned = {}
    for name, (iterations, values) in metrics.items():
        kept = slice((len(values) - 1) % (step := -(-len(values) // _POINTS)), None, step)
        thinned[name] = (iterations[kept], [v and float(f"{v:.5g}") for v in values[kept]])
    return thinned


def _names(parts) -> list[str]:
    """Keys of several dictionaries, each once."""
    return list(dict.fromkeys(name for part in parts for name in part))


def _hexadecimal(colour: canvas.Colour) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)


def _template(name: str) -> str:
    return resources.files("qiml.visualization").joinpath("templates", name).read_text("utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError(
            "report",
            found="no Plotly",
            expected="Plotly, for its charts",
            mend="pip install plotly",
        ) from error
    return get_plotlyjs()


_EXAMPLES = """\
examples:
  python -m qiml.visualization.report output/quickstart
  python -m qiml.visualization.report output/baseline output/with_both_losses --output compared.html

The frames of the gallery are read from the data set again: set DETECTRON2_DATASETS as for the run.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m qiml.visualization.report",
        description="Write one HTML file with tables, training curves, precision–recall curves, depth "
        "errors and a gallery of frames, of one run or of several side by side. It opens in any browser "
        "without a network.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="OUTPUT_DIR", help="folder of a run")
    parser.add_argument(
        "--output", metavar="FILE", help=f"default: {FILE_NAME} in the first folder"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=PICTURES,
        metavar="N",
        help=f"frames of each data set that show their image, the worst ones; default: {PICTURES}",
    )
    options = parser.parse_args(arguments)
    with exit_on_error():
        print(write_report(options.runs, options.output, options.pictures))


if __name__ == "__main__":
    main()
