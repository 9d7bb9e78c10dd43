"""What a run leaves behind: the record of its events, its labels, its checkpoints."""

from alprune.store.folder import (
    CONFIG,
    Fields,
    RunFolder,
    check_new,
    from_cell,
    read_events,
    read_labels,
    resume_command,
    to_cell,
)

__all__ = [
    "CONFIG",
    "Fields",
    "RunFolder",
    "check_new",
    "from_cell",
    "read_events",
    "read_labels",
    "resume_command",
    "to_cell",
]
