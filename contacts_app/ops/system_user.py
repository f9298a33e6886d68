"""Run the embedded PostgreSQL as a system user if the console runs as root, because PostgreSQL refuses root."""

import os
import pwd
import stat
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from ..config import StartError
from ..core import locks

SYSTEM_USER = "alert-contacts"
USER_PATIENCE = 5  # seconds to wait for another program's lock on the password file
ACCESS_LIST = "system.posix_acl_access"
# Of linux/posix_acl.h and linux/posix_acl_xattr.h; entries stand in this order.
ACL_VERSION, NO_ID = 2, 0xFFFFFFFF
ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_MASK, ACL_OTHER = 1, 2, 4, 16, 32


def server_user() -> pwd.struct_passwd | None:
    """Return the system user that the server runs as if the console is root, otherwise None."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return _make_server_user()


def _make_server_user() -> pwd.struct_passwd:
    """Create the system user, unless another process has just done so; raise StartError if that fails."""
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    deadline = time.monotonic() + USER_PATIENCE
    refused = None
    # Two concurrent useradd may both succeed, and the second would change the uid. Only root can lock this file; the
    # lock is of another kind than that of useradd.
    with locks.open_private(Path("/etc/.pwd.lock")) as lock:
        locks.hold(lock)
        while True:
            with suppress(KeyError):
                return pwd.getpwnam(SYSTEM_USER)
            if refused is not None and ("try again" not in refused or time.monotonic() > deadline):
                raise StartError(
                    f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} cannot be made;"
                    " run as an ordinary user or set DATABASE_URL."
                )
            if refused:
                time.sleep(0.1)  # another program holds the lock of the password file
            try:
                path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
                refused = subprocess.run(command, capture_output=True, text=True, env=path).stderr  # nosec B603
            except OSError as error:
                refused = str(error)


def make_own(folder: Path) -> None:
    """Create `folder` with access only for the server's user; raise StartError if another user owns it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    user = server_user()
    # In /tmp another user may have created it first, as a folder or as a symbolic link.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), user.pw_uid if user else os.geteuid()}:
        raise StartError(f"{folder} belongs to another user; remove it or set DATA_DIR to a short, plain path.")
    folder.chmod(0o700)
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)


def let_pass(*paths: Path) -> None:
    """Give only the server's user search permission (x) on the folders at and above `paths`.

    This matters only for root, whose home is usually private: the user gets an entry `--x` in the access control list
    of the folder, and the permissions of all others stay unchanged.
    """
    user = server_user()
    if user is None:
        return
    for folder in {folder for path in paths for folder in (path.resolve(), *path.resolve().parents)}:
        found = folder.stat()
        if found.st_mode & 0o001 or found.st_uid == user.pw_uid:
            continue
        try:
            if ACCESS_LIST not in os.listxattr(folder):
                os.setxattr(folder, ACCESS_LIST, _access_list(found.st_mode, user.pw_uid))
        except OSError:
            raise StartError(
                f"as root, PostgreSQL runs as the user {SYSTEM_USER}, which cannot pass through {folder};"
                " run as an ordinary user, move the project or set DATABASE_URL."
            ) from None


def _access_list(mode: int, user: int) -> bytes:
    """Return the access control list (ACL) for a folder of this mode, with an entry `--x` for a user id.

    The format is that of linux/posix_acl_xattr.h. It is packed here because `setfacl` is not installed everywhere, the
    Python library must be compiled against libacl, and another group for the folder would replace its present one.
    """
    owner, group, others = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    entries = (
        (ACL_USER_OBJ, owner, NO_ID),
        (ACL_USER, 1, user),
        (ACL_GROUP_OBJ, group, NO_ID),
        (ACL_MASK, group | 1, NO_ID),
        (ACL_OTHER, others, NO_ID),
    )
    return struct.pack("<I", ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
