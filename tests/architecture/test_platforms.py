"""No module needs what Windows and macOS lack: docs/platforms.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Modules and names of Linux that Windows lacks, of which macOS lacks a part.
ELSEWHERE = """
import os, pkgutil, signal, sys
from importlib import import_module
from pathlib import Path

def load():
    # worker.py and the children are scripts: reparam starts them by their path
    import reparam, reparam.models
    for package, prefix in ((reparam, "reparam."), (reparam.models, "reparam.models.")):
        for module in pkgutil.walk_packages(package.__path__, prefix):
            if not module.name.endswith("__main__"):
                yield import_module(module.name).__name__

count = len(set(load()))  # and so all that they need of others, which is not what is asked
for name in [name for name in sys.modules if name.partition(".")[0] == "reparam"]:
    del sys.modules[name]
for name in ("fcntl", "resource", "termios", "pwd", "grp", "pty"):
    sys.modules[name] = None
for name in ("link", "killpg", "getpgid", "setsid", "fork", "geteuid", "getuid", "fchmod",
             "sched_getaffinity", "sysconf", "O_TMPFILE", "O_NONBLOCK", "O_CLOEXEC",
             "O_NOFOLLOW", "O_DIRECTORY"):
    delattr(os, name)
for name in ("SIGHUP", "SIGPIPE", "SIGKILL", "SIGQUIT", "SIGALRM", "SIGUSR1", "pthread_sigmask"):
    delattr(signal, name)
"""


def elsewhere(script: str) -> str:
    """Return what ``script`` prints in an interpreter without those modules and names."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE + script],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_and_files_are_written_whole(tmp_path: Path) -> None:
    """In one interpreter, since importing everything is what takes the time."""
    script = f"""
again = set(load())
assert len(again) == count > 250
from tests.weights import repvgg_arrays, write
import reparam.__main__
folder = Path({str(tmp_path)!r})
source = write(folder, repvgg_arrays())
for arguments in (["fuse"], ["fuse", "--force"], ["verify", "--no-network"], ["inspect"]):
    try:
        reparam.__main__.main([*arguments, str(source)])
    except SystemExit as ended:
        assert not ended.code, arguments
print("done")
"""
    assert elsewhere(script).endswith("done\n")
    names = {path.name for path in tmp_path.iterdir()}
    expected = {"ckpt.pdparams", "ckpt.deploy.pdparams", "ckpt.deploy.pdparams.manifest.json"}
    assert names == expected, "and no draft is left"
