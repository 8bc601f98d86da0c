"""Objectives by name, imported when asked for. A new one is a file and a line here."""

TABLE = {
    "adakd": "stillsmall.objectives.adakd:AdaptiveDistillation",
    "ce": "stillsmall.objectives.ce:CrossEntropy",
    "kd": "stillsmall.objectives.kd:KnowledgeDistillation",
}
