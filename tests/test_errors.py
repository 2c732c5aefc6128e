import errno
import pickle

import pytest

from qiml.errors import DatasetError, OutputError, exit_on_error


def test_a_message_is_one_printable_line_whatever_a_file_holds():
    error = DatasetError("a.txt:3", found="a\x1b[31m\n\u2028b" + "x" * 9999, expected="c", mend="d")
    assert str(error).startswith("a.txt:3: found a [31m bxxx") and len(str(error)) < 1000
    assert str(error).isprintable() and str(error).endswith("…; expected c. To mend it: d")
    assert str(DatasetError("a.txt", found="", expected="c", mend="d")).startswith(
        "a.txt: found nothing"
    )


@pytest.mark.parametrize(
    "error",
    [
        DatasetError("a.txt", found="b", expected="c", mend="d"),
        OutputError("a.txt", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_errors_cross_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_one_line_and_exits_with_2(number, capsys):
    with pytest.raises(SystemExit) as stopped, exit_on_error():
        raise OSError(number, "refused", "metrics.json")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: [Errno {number}] refused: 'metrics.json'\n"


@pytest.mark.parametrize("error", [OSError(errno.ENOTDIR, "a mistake"), KeyError("a mistake")])
def test_programming_errors_keep_their_traceback(error):
    with pytest.raises(type(error), match="a mistake"), exit_on_error():
        raise error
