"""Have the embedded PostgreSQL run as a system user where the console is root, which PostgreSQL refuses to be."""

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
USER_PATIENCE = 5  # seconds in which another program lets go of the password file
ACCESS_LIST = "system.posix_acl_access"
# Of linux/posix_acl.h and linux/posix_acl_xattr.h; entries stand in this order.
ACL_VERSION, NO_ID = 2, 0xFFFFFFFF
ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_MASK, ACL_OTHER = 1, 2, 4, 16, 32


def server_user() -> pwd.struct_passwd | None:
    """Return the system user that the server runs as where the console is root, which PostgreSQL refuses to be."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return _make_server_user()


def _make_server_user() -> pwd.struct_passwd:
    """Make the system user, unless another process does so at this moment."""
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    deadline = time.monotonic() + USER_PATIENCE
    refused = None
    # Of two useradd at once both may succeed, and the later one gives the user another number. Only root can lock this
    # file, in another way than useradd does.
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
                time.sleep(0.1)  # some other program holds the lock of the password file
            try:
                path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
                refused = subprocess.run(command, capture_output=True, text=True, env=path).stderr  # nosec B603
            except OSError as error:
                refused = str(error)


def make_own(folder: Path) -> None:
    """Make `folder` one that only the server's user can enter."""
    folder.mkdir(mode=0o700, exist_ok=True)
    user = server_user()
    # In /tmp anybody may have been first, with a folder or with a link to somewhere else.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), user.pw_uid if user else os.geteuid()}:
        raise StartError(f"{folder} belongs to another user; remove it or set DATA_DIR to a short, plain path.")
    folder.chmod(0o700)
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)


def let_pass(*paths: Path) -> None:
    """Let the server's user pass through the folders at and above `paths`, and nobody else.

    Only matters for root, whose home is usually closed: that one user gets an entry `--x` in the folder's access
    list, and the permissions that everybody has stay as they are.
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
    """Return the access list of a folder of this mode, with an entry `--x` for a user.

    Packed by hand, as linux/posix_acl_xattr.h has it, because nothing plainer is there: `setfacl` is not installed on
    every machine, the library for Python has to be compiled against libacl, and by way of a group the folder would lose
    the one it has.
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
