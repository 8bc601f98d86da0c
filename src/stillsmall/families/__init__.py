"""Families of models by the `model_type` of their config, imported when asked for. A new one is a file and a line."""

TABLE = {
    "whisper": "stillsmall.families.whisper:WhisperFamily",
    "wav2vec2": "stillsmall.families.ctc:CtcFamily",
    "hubert": "stillsmall.families.ctc:CtcFamily",
    "wav2vec2-conformer": "stillsmall.families.ctc:CtcFamily",
}
