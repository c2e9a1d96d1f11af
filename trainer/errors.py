"""What can go wrong while learning.

    TrainerError
    ├── NothingToLearn    too few or too one-sided examples: the run is skipped
    ├── TrainingFailed    the training itself, or the model it was given
    └── RunCancelled      an admin stopped the run

Every message is a sentence that an admin can act on.
"""


class TrainerError(Exception):
    """Base of everything the trainer raises on purpose."""


class NothingToLearn(TrainerError):
    """Too few or too one-sided examples."""


class TrainingFailed(TrainerError):
    """The training itself failed, or the model it was given cannot be trained."""


class RunCancelled(TrainerError):
    """An admin stopped the run."""
