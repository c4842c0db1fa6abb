"""The handler that Snakemake gives its log records to."""

import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, field

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from snakemake_logger_plugin_pd_ddpm.dry_run import DryRun
from snakemake_logger_plugin_pd_ddpm.explain import explain
from snakemake_logger_plugin_pd_ddpm.jobs import Job, duration, finished_text
from snakemake_logger_plugin_pd_ddpm.terminal import Terminal

# Set for the jobs: their messages are shown from their log files, see pd_ddpm.runtime.job.
LOGS_ARE_SHOWN = "PD_DDPM_LOGS_ARE_SHOWN"

# Finished jobs are reported together, at first every 20 seconds and later less often, at least every 10 minutes. A run of 15
# minutes prints about 40 lines, and one of a day about 200.
_FIRST_GAP_SECONDS, _GAP_SHARE, _LAST_GAP_SECONDS = 20, 1 / 25, 600
_SILENT_GAPS = 3  # without a finished job, running ones are reported after this many gaps
_TICK_SECONDS = 1.0
_ERROR_LINES = 5  # of the log of a failed job that has no error message

# Messages of Snakemake and of its plugin for Slurm that concern their own work. The log file has all of them.
_NOISE = (
    *("Building DAG", "Using shell", "Provided ", "Conda environments: ignored", "Singularity containers: ignored"),
    *("Group jobs: inactive", "Assuming unrestricted shared filesystem", "Config file ", "Select jobs to execute"),
    *("Processed ", "Updating ", "Elapsed time", "Workflow has started", "SLURM run ID", "Reasons:"),
    *("Some jobs were triggered by provenance", "Rules with provenance", "This was a dry-run"),
)
_SUBMISSION = "has been submitted with SLURM jobid"


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Options of the plugin on the command line of Snakemake."""

    full: bool = field(
        default=False,
        metadata={"help": "Show all messages of Snakemake and of the jobs, as Snakemake does without this plugin."},
    )


class LogHandler(LogHandlerBase):
    """Shows the progress of a run in few lines."""

    settings: LogHandlerSettings

    def __post_init__(self) -> None:
        options = self.common_settings
        self._is_full = self.settings.full or options.verbose or options.debug_dag
        self._terminal = Terminal(sys.stdout if options.stdout else sys.stderr)
        self._running: dict[int, Job] = {}
        self._finished: list[tuple[Job, float]] = []
        self._done, self._total = 0, 0
        self._start = self._last_line = time.monotonic()
        self._has_failed = False
        self._targets: list[str] = []
        self._prefixes: list[str] = []
        self._dry_run = DryRun()
        self._is_closed = threading.Event()
        if not self._is_full and not options.dryrun:
            os.environ[LOGS_ARE_SHOWN] = "1"
            threading.Thread(target=self._tick, daemon=True).start()

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return False

    @property
    def has_formatter(self) -> bool:
        return False

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record of Snakemake, or keep what it says for later."""
        try:
            if self._is_full:
                self._print_formatted(record)
            else:
                self._handle(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Report the last jobs."""
        with self.lock:
            if not self._is_closed.is_set():
                self._is_closed.set()
                self._report_finished()
                self._terminal.draw([""])
        super().close()

    def _handle(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if hasattr(record, "targets"):
            self._targets += record.targets
            self._prefixes.append(record.prefix)
        elif event == LogEvent.JOB_INFO:
            self._begin(record)
        elif event == LogEvent.JOB_FINISHED:
            self._finish(record.job_id)
        elif event == LogEvent.PROGRESS:
            self._done, self._total = record.done, record.total
            self._report_finished_if_due()
        elif event == LogEvent.JOB_ERROR:
            self._fail(record)
        elif event == LogEvent.RUN_INFO:
            self._total = record.stats["total"]
            self._dry_run.plan({rule: count for rule, count in record.stats.items() if rule != "total"})
        elif record.levelno >= logging.WARNING:
            self._warn(record)
        elif event is None:
            self._inform(record)

    def _begin(self, record: logging.LogRecord) -> None:
        if self.common_settings.dryrun:
            self._dry_run.add(record.jobid, record.rule_name, record.reason)
        else:
            rule = record.rule_name
            for prefix in self._prefixes:
                rule = rule.removeprefix(prefix)
            job = Job.from_record(rule, record.wildcards, record.log, time.monotonic())
            self._running[record.jobid] = job

    def _finish(self, jobid: int) -> None:
        job = self._running.pop(jobid, None)
        if job is not None:
            self._print(self._severe_lines(job))
            if job.log.path is not None:  # rules that only collect files have no log
                self._finished.append((job, time.monotonic() - job.start))

    def _fail(self, record: logging.LogRecord) -> None:
        self._has_failed = True
        job = self._running.pop(record.jobid, None)
        lines = [f"FAILED: {job or record.rule_name}"]
        if job is not None:
            lines += [f"  {line}" for line in job.log.read() or job.log.last_lines(_ERROR_LINES)]
        lines += [f"  {text}" for text in (record.rule_msg, *(f"{key}: {value}" for key, value in record.aux.items())) if text]
        lines += [f"  log: {path}" for path in record.log]
        self._print(lines)

    def _warn(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if getattr(record, "event", None) == LogEvent.ERROR:
            text = explain(text, sys.argv[1:], self._targets) or text
        self._has_failed |= record.levelno >= logging.ERROR
        self._print(text.splitlines())

    def _inform(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        is_log_hint = text.startswith("Complete log(s)")
        if not text or text.startswith(_NOISE) or _SUBMISSION in text or (is_log_hint and not self._has_failed):
            if text.startswith("This was a dry-run"):
                self._print([*self._dry_run.table(), "", _DRY_RUN_HINT])
            return
        self._report_finished()
        self._print(text.splitlines())

    def _tick(self) -> None:
        """Show the progress of running jobs every second, and report finished ones in time."""
        while not self._is_closed.wait(_TICK_SECONDS):
            with self.lock:
                if self._is_closed.is_set():
                    return
                for job in self._running.values():
                    self._print(self._severe_lines(job))
                self._report_finished_if_due()
                self._report_running_if_due()
                if self._running:
                    self._terminal.draw(self._block())

    def _severe_lines(self, job: Job) -> list[str]:
        """Return the new warnings and errors of a job, each with the name of the job."""
        return [line if line.startswith(" ") else f"{job}: {line}" for line in job.log.read()]

    def _gap(self) -> float:
        elapsed = time.monotonic() - self._start
        return min(max(_FIRST_GAP_SECONDS, elapsed * _GAP_SHARE), _LAST_GAP_SECONDS)

    def _report_finished_if_due(self) -> None:
        if self._finished and time.monotonic() - self._last_line >= self._gap():
            self._report_finished()

    def _report_finished(self) -> None:
        if self._finished:
            text = finished_text(self._finished)
            self._finished = []
            self._print([f"{self._clock()}{text}"])

    def _report_running_if_due(self) -> None:
        """Print what runs if nothing has been printed for long. A terminal shows it all the time."""
        is_due = time.monotonic() - self._last_line >= _SILENT_GAPS * self._gap()
        if self._running and is_due and not self._terminal.is_live:
            self._print([f"{self._clock()}running: {'; '.join(self._progress())}"])

    def _block(self) -> list[str]:
        return [f"{self._clock()}{duration(time.monotonic() - self._start)}", *(f"  {line}" for line in self._progress())]

    def _progress(self) -> list[str]:
        """Return a line for each job that has begun, and the number of those that have not."""
        begun = [job for job in self._running.values() if job.log.has_begun]
        lines = [f"{job}: {job.log.latest}" if job.log.latest else str(job) for job in begun]
        waiting = len(self._running) - len(begun)
        return lines + ([f"{waiting} more: starting, or in the queue"] if waiting else [])

    def _clock(self) -> str:
        return f"{time.strftime('%H:%M:%S')}  {self._done:>{len(str(self._total))}}/{self._total}  "

    def _print(self, lines: list[str]) -> None:
        if lines:
            self._terminal.print(lines)
            self._last_line = time.monotonic()

    def _print_formatted(self, record: logging.LogRecord) -> None:
        if text := self.format(record):
            self._terminal.print([text])


_DRY_RUN_HINT = "This was a dry run. `snakemake -n --logger-pd-ddpm-full` lists each job with its files and reasons."
