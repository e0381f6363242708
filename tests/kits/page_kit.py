"""Programs of a page in processes of their own that do not load PyTorch and scikit-learn anew each time."""

from __future__ import annotations

import builtins
import multiprocessing
import os
import runpy
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

_PRELOADED = ["torch", "torch._dynamo", "torch.nn.functional", "sklearn.linear_model", "sklearn.datasets"]
_TIMEOUT_S = 300.0


def run_program(
    script: Path, *words: str, cwd: Path, strict: str = "", env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a script as ``python script`` does, forked from a process that has loaded the frameworks.

    The names of the script are its own, and so are its settings and its plugins: only the loading is saved.

    Args:
        script: The file.
        words: The arguments behind its name.
        cwd: The folder in which it is run, which gets its output, too.
        strict: Name of the class of warnings that are errors, beginning with the script; none by default.
        env: Variables beside those of this process.

    Returns:
        Exit code, standard output and standard error.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    outputs = cwd / f"{script.stem}.out", cwd / f"{script.stem}.err"
    variables = {**os.environ, **(env or {})}
    process = context.Process(target=_run, args=([str(script), *words], cwd, outputs, strict, variables))
    process.start()
    process.join(_TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    code = process.exitcode
    process.close()
    out, err = (path.read_text(encoding="utf-8") for path in outputs)
    return code if code is not None else -1, out, err


def _run(words: list[str], cwd: Path, outputs: tuple[Path, Path], strict: str, env: Mapping[str, str]) -> None:
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = words
    sys.path[:0] = [str(Path(words[0]).parent), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    if strict:
        warnings.simplefilter("error", getattr(builtins, strict))
    runpy.run_path(words[0], run_name="__main__")
