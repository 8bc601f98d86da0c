"""Families of models by the `model_type` of their config, imported when asked for. A new one is a file and a line."""

TABLE = {
    "whisper": "stillsmall.families.whisper:WhisperFamily",
}
