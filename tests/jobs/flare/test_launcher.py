"""The command line of a job process: every word arrives as it is, whatever is in it."""

from __future__ import annotations

import shlex
import sys

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs

from jobs.flare.launcher import AggregatorLauncher, SiloLauncher

CLIENT = "nvflare.private.fed.app.client.worker_process"
SERVER = "nvflare.private.fed.app.server.runner_process"


def context(module: str, folder: str) -> FLContext:
    made = FLContext()
    arguments = {
        JobProcessArgs.EXE_MODULE: ("-m", module),
        JobProcessArgs.WORKSPACE: ("-m", folder),
        JobProcessArgs.JOB_ID: ("-n", "0b7a3f52-5c9c-4b0e-9a55-1f1f8b6a2c11"),
        JobProcessArgs.OPTIONS: ("--set", "print_conf=True secure_train=true"),
    }
    made.set_prop(FLContextKey.JOB_PROCESS_ARGS, arguments, private=True, sticky=False)
    return made


@pytest.mark.parametrize(
    "folder", ["/data/kit", "/my data/clin", "/a#b", "/it's", '/a "b"', "/a\\b", "/a\nb", "/ä $HOME"]
)
@pytest.mark.parametrize(
    ("launcher", "module", "verb"), [(SiloLauncher, CLIENT, "client-job"), (AggregatorLauncher, SERVER, "server-job")]
)
def test_each_word_survives_nvflares_splitting(
    launcher: type[SiloLauncher | AggregatorLauncher], module: str, verb: str, folder: str
) -> None:
    words = shlex.split(launcher().get_command({}, context(module, folder)), True)
    assert words[:5] == [sys.executable, "-P", "-m", "jobs.flare.nvflare_mains", verb]
    assert words[5:7] == ["-m", folder]
    assert words[-3:] == ["--set", "print_conf=True", "secure_train=true"]


def test_another_module_is_refused() -> None:
    with pytest.raises(RuntimeError, match="another version than"):
        SiloLauncher().get_command({}, context(SERVER, "/x"))
