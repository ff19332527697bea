"""The old place of `fastnn._extras.require`."""

from fastnn._extras import require as require
