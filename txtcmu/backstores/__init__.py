"""The backstores that come with txtcmu: one module each, imported when a device asks for it."""
