"""Errors of conversions to other formats."""

from pd_ddpm.runtime.problem import ProblemError


class ConversionError(ProblemError):
    """Raised for predictions that cannot be converted, or an output folder that cannot be used."""
