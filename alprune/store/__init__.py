"""What a run leaves behind: the record of its events, its labels, its checkpoints."""

from alprune.store.folder import (
    CONFIG,
    Fields,
    RunFolder,
    from_cell,
    read_events,
    read_labels,
    to_cell,
)

__all__ = ["CONFIG", "Fields", "RunFolder", "from_cell", "read_events", "read_labels", "to_cell"]
