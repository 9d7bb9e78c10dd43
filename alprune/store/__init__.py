"""What a run leaves behind: the record of its events, its labels, its checkpoints."""

from alprune.store.folder import (
    CONFIG,
    Fields,
    RunFolder,
    check_new,
    from_cell,
    is_asking,
    read_events,
    read_labels,
    resume_command,
    sound_bytes,
    to_cell,
)
from alprune.store.silent import SilentFolder

__all__ = [
    "CONFIG",
    "Fields",
    "RunFolder",
    "SilentFolder",
    "check_new",
    "from_cell",
    "is_asking",
    "read_events",
    "read_labels",
    "resume_command",
    "sound_bytes",
    "to_cell",
]
