"""What can be wrong with a checkpoint."""


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names the file and what would be right."""


class CheckpointMissingError(CheckpointError):
    """The folder or one of its files is not there."""


class CheckpointHashError(CheckpointError):
    """A file's content is not what SHA256SUMS says: truncated, altered, or foreign."""


class CheckpointVersionError(CheckpointError):
    """The checkpoint was written in a format that this version does not read."""


class CheckpointFormatError(CheckpointError):
    """A file is not of its format."""


class CheckpointMismatchError(CheckpointError):
    """The weights, or the shortlist, are not those of the model that config.json describes."""
