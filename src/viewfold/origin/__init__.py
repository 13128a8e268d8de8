"""Where results come from, and what may be made at all: a hook that signs them, records, the mark, checks of safety."""
