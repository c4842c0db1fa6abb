"""Logger plugin of Snakemake: what runs, what has finished, and what went wrong, in few lines.

Snakemake finds the package by its name. It imports the package at every start, so it depends on the standard library and on
Snakemake only.
"""

from snakemake_logger_plugin_pd_ddpm.handler import LogHandler, LogHandlerSettings

__all__ = ["LogHandler", "LogHandlerSettings"]
