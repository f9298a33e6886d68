"""Make DATA_DIR private, and store generated secrets in it."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from .environment import StartError

# Every DATA_DIR that the console has used contains at least one of these.
OWN_NAMES = ("secret_key", "encryption_key", "postgres", "serve.lock", "postgres.start.lock")


def make_private(data_dir: Path) -> None:
    """Create the folder, or remove other users' access to it; raise StartError if that is impossible or unsafe.

    The files in it need no change, because the console creates them all with access only for their owner.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = data_dir.stat()
        # An ACL entry `--x`, for the embedded server's user, appears in the group bits.
        open_to_others = found.st_mode & 0o067
        if not open_to_others or not os.access(data_dir, os.W_OK | os.X_OK):
            return  # if not writable, a later write reports the error
        is_own = not any(data_dir.iterdir()) or any((data_dir / name).exists() for name in OWN_NAMES)
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_ISVTX or not is_own:
            raise StartError(
                f"DATA_DIR {data_dir} can be opened by other users of this machine, and belongs to another user or has"
                " other things in it, so the console does not close it. Close it (chmod 700), or name one of its own."
            )
        data_dir.chmod(stat.S_IMODE(found.st_mode) & ~0o067)
        print(
            f"alert-contacts: DATA_DIR {data_dir} was open to other users of this machine; it is closed now.",
            file=sys.stderr,
        )
    except OSError as error:
        raise StartError(f"DATA_DIR must be a folder this user can write to; {data_dir}: {error.strerror}.") from None


def stored_secret(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in the file at `path`; generate it if missing. Return an empty string if it is not ASCII."""
    make_private(path.parent)
    try:
        if not path.exists():
            # Hard-linked when complete, so that two concurrent starts use the same secret.
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(make())
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        secret = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise StartError(
            f"DATA_DIR must be a folder this user can write to; {path.parent}: {error.strerror}."
        ) from None
    return secret if secret.isascii() else ""
