"""Control sessions that outlive their process."""
