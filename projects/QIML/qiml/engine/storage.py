"""A run's folder on storage that all machines of a cluster see: a shared folder, s3://, gs://, …"""

import posixpath
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow
from pyarrow import fs

from qiml.errors import ConfigError


@dataclass(frozen=True)
class RunStorage:
    """STORAGE/NAME; what Ray keeps of a run lies there too. Can be sent to other processes.

    Attributes:
        filesystem: of the storage.
        parent: the storage's folder on that file system.
        name: of the run.
    """

    filesystem: fs.FileSystem
    parent: str
    name: str

    @classmethod
    def open(cls, uri: str, name: str) -> "RunStorage":
        """Find the file system of a URI or path and see that it can be written to.

        Args:
            uri: a folder, or a URI that pyarrow or fsspec knows.
            name: one name, without slashes.

        Raises:
            ConfigError: unknown kind of storage, no access, or a name with a slash.
        """
        if not name or "/" in name or name.startswith("."):
            raise ConfigError(
                "--name",
                found=repr(name),
                expected="one word that can be a folder",
                mend="leave out slashes and the dot at the start",
            )
        try:
            storage = cls(*_resolve(uri), name)
            probe = f".probe-{uuid.uuid4().hex[:12]}"
            storage.write_text(probe, "")
            storage.filesystem.delete_file(storage.path(probe))
        except (OSError, ValueError, ImportError, pyarrow.ArrowException) as error:
            raise ConfigError(
                "--storage-path",
                found=f"{uri}, which cannot be written to ({' '.join(str(error).split())})",
                expected="a folder, or a URI such as s3://BUCKET/FOLDER, that this user may write to",
                mend="create it, correct it, or give this machine the rights",
            ) from error
        return storage

    def path(self, *parts: str) -> str:
        """Path on the file system of something in the run's folder."""
        return posixpath.join(self.parent, self.name, *parts)

    def exists(self, name: str) -> bool:
        return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def read_text(self, name: str) -> str:
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read().decode()

    def write_text(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all."""
        target = self.path(name)
        temporary = posixpath.join(posixpath.dirname(target), f".tmp-{uuid.uuid4().hex[:12]}")
        self.filesystem.create_dir(posixpath.dirname(target), recursive=True)
        with self.filesystem.open_output_stream(temporary) as stream:
            stream.write(text.encode())
        self.filesystem.move(temporary, target)

    def folders(self, prefix: str) -> list[str]:
        """Paths of the folders directly in the run's whose names begin so, by name."""
        selector = fs.FileSelector(self.path(), allow_not_found=True)
        return sorted(
            info.path
            for info in self.filesystem.get_file_info(selector)
            if info.type == fs.FileType.Directory and info.base_name.startswith(prefix)
        )

    def upload(self, files: Iterable[Path], root: Path, folder: str) -> None:
        """Copy local files below `root` to the same places in `folder` of the run, each atomically."""
        local = fs.LocalFileSystem()
        for file in files:
            target = self.path(folder, file.relative_to(root).as_posix())
            parent = posixpath.dirname(target)
            self.filesystem.create_dir(parent, recursive=True)
            temporary = posixpath.join(parent, f".tmp-{uuid.uuid4().hex[:12]}")
            fs.copy_files(
                str(file),
                temporary,
                source_filesystem=local,
                destination_filesystem=self.filesystem,
            )
            self.filesystem.move(temporary, target)

    def download(self, folder: str, root: Path) -> None:
        """Copy the files directly in `folder` of the run, if there is one, to the local folder `root`."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        for info in self.filesystem.get_file_info(selector):
            if info.is_file and not info.base_name.startswith(".tmp-"):
                fs.copy_files(
                    info.path,
                    str(root / info.base_name),
                    source_filesystem=self.filesystem,
                    destination_filesystem=fs.LocalFileSystem(),
                )


def _resolve(uri: str) -> tuple[fs.FileSystem, str]:
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        return fs.FileSystem.from_uri(uri)
    except pyarrow.ArrowInvalid:
        import fsspec  # many more kinds, each with a package of its own

        filesystem, path = fsspec.core.url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path
