"""Errors of a training."""


class TrainingError(RuntimeError):
    """Raised when the loss or the weights become NaN or infinite."""


class NonFiniteError(ArithmeticError):
    """A loss or a weight is NaN or infinite since a certain step."""

    def __init__(self, finding: str, step: int):
        super().__init__(finding)
        self.step = step
