"""Filters by name, imported when asked for. A new one is a file and a line here."""

TABLE = {
    "not_empty": "stillsmall.filters.not_empty:NotEmpty",
    "repetition": "stillsmall.filters.repetition:Repetition",
    "agreement": "stillsmall.filters.agreement:Agreement",
    "confidence": "stillsmall.filters.confidence:Confidence",
    "entropy": "stillsmall.filters.entropy:Entropy",
    "compression": "stillsmall.filters.compression:Compression",
    "duration": "stillsmall.filters.duration:Duration",
    "rate": "stillsmall.filters.rate:Rate",
    "speech_share": "stillsmall.filters.speech_share:SpeechShare",
    "language": "stillsmall.filters.language:Language",
    "no_speech": "stillsmall.filters.no_speech:NoSpeech",
    "likelihood": "stillsmall.filters.likelihood:Likelihood",
    "keep_best": "stillsmall.filters.keep_best:KeepBest",
    "random": "stillsmall.filters.random:Random",
    "reference_wer": "stillsmall.filters.reference_wer:ReferenceWer",
}
