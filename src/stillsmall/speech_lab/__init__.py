"""Offline speech lab: synthetic speech with known text, for the embedded default, tests and demonstrations.

`from stillsmall.speech_lab.corpus import clips, domains`; nothing is downloaded and importing does nothing.
"""
