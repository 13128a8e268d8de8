"""Where results come from, and what may be made at all: records in files, the invisible mark, checks of safety."""
