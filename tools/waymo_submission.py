"""Pack detections for Waymo's evaluation server."""

import argparse
import tarfile
import tempfile
from pathlib import Path

from qiml.errors import ConfigError, exit_on_error
from qiml.evaluation.waymo_files import write_submission
from qiml.io import atomic_path

EXAMPLE = """\
PREDICTIONS is the .bin file that evaluation writes into OUTPUT_DIR (train_net.py --eval-only with
DATASETS.TEST "('waymo_test',)"). Needs `make setup-waymo` once. Upload the .tar.gz at waymo.com/open under
"3D Camera-Only Detection".

example:
  python tools/waymo_submission.py output/waymo_waymo_test.bin --out submission.tar.gz \\
      --account me@example.org --method QIML --authors "A. Author" --affiliation "A University"
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("predictions", type=Path, help="file of detections (metrics.Objects)")
    parser.add_argument("--out", type=Path, required=True, help=".tar.gz to write")
    parser.add_argument("--account", required=True, help="e-mail address registered with Waymo")
    parser.add_argument("--method", required=True, help="unique name, at most 25 characters")
    parser.add_argument("--authors", nargs="+", default=[])
    parser.add_argument("--affiliation", default="")
    parser.add_argument("--description", default="")
    parser.add_argument("--link", default="", help="to a paper or code")
    args = parser.parse_args()
    details = {
        "account_name": args.account,
        "unique_method_name": args.method,
        "authors": args.authors,
        "affiliation": args.affiliation,
        "description": args.description,
        "method_link": args.link,
    }
    with exit_on_error():
        if args.out.resolve() == args.predictions.resolve():
            raise ConfigError(
                f"--out {args.out}",
                found="the file of predictions itself",
                expected="another file: no input is written over",
                mend="name a .tar.gz",
            )
        with tempfile.TemporaryDirectory() as folder:
            message = Path(folder) / "submission.binproto"
            count = write_submission(message, args.predictions, details)
            with atomic_path(args.out) as temporary, tarfile.open(temporary, "w:gz") as archive:
                archive.add(message, message.name)
        print(f"{args.out}: {count} detections")


if __name__ == "__main__":
    main()
