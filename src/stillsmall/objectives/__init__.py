"""Objectives by name, imported when asked for. A new one is a file and a line here."""

TABLE = {
    "adakd": "stillsmall.objectives.adakd:AdaptiveDistillation",
    "ce": "stillsmall.objectives.ce:CrossEntropy",
    "focal": "stillsmall.objectives.focal:Focal",
    "hidden": "stillsmall.objectives.hidden:HiddenStates",
    "kd": "stillsmall.objectives.kd:KnowledgeDistillation",
    "label_smoothing": "stillsmall.objectives.label_smoothing:LabelSmoothing",
    "superloss": "stillsmall.objectives.superloss:SuperLoss",
}
