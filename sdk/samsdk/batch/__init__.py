"""Folders in one go: many files, several processes or a cluster, a table of what was found, and a way to go on.

    report = run_batch("scans", "out", prompts="prompts.csv", processes=4)
    report.failed  # the files that could not be segmented, each with its reason; all others are done

`prompts_file` and `plan` say what there is to do, `worker` does one file, `processes` and `ray_engine` hand files out,
`journal` remembers what is done, so that a run that was killed goes on, and `table` writes it down.
"""

from samsdk.batch.outcome import ObjectRow, Outcome
from samsdk.batch.report import BatchReport
from samsdk.batch.run import run_batch

__all__ = ["BatchReport", "ObjectRow", "Outcome", "run_batch"]
