"""The chat rows: where they come from, how they are rendered, how they are checked."""
