"""The parts of the report: figures as words, tables, curves, marked transcripts, examples that play, and the page."""
