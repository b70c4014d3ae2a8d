"""Named configurations, carried by the wheel."""
