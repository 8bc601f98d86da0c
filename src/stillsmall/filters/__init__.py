"""Filters by name, imported when asked for. A new one is a file and a line here."""

TABLE = {
    "not_empty": "stillsmall.filters.not_empty:NotEmpty",
    "repetition": "stillsmall.filters.repetition:Repetition",
    "agreement": "stillsmall.filters.agreement:Agreement",
    "confidence": "stillsmall.filters.confidence:Confidence",
    "compression": "stillsmall.filters.compression:Compression",
    "random": "stillsmall.filters.random:Random",
    "reference_wer": "stillsmall.filters.reference_wer:ReferenceWer",
}
