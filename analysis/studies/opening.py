"""Runs opened for studies of NTK-CL's own training."""

from pathlib import Path

from analysis.errors import RecordError
from analysis.records.checkpoints import Records
from analysis.studies.refusals import Study, without_ntkcl
from ntkcl_jax.data import Arrays
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.runs.recorded import load_run


def open_ntkcl(run: str | Path, study: Study, arrays: Arrays | None = None) -> Records:
    """Open a run for a study that starts from NTK-CL's checkpoints.

    Raises:
        RecordError: no run there, a damaged one, one without NTK-CL, or its images are gone or others.
    """
    try:
        opened = load_run(run, arrays=arrays)
    except NtkclError as error:
        raise RecordError(str(error)) from error
    if "ntkcl" not in opened.methods:
        raise RecordError(without_ntkcl(study, opened.path, opened.config.methods))
    return Records(opened)
