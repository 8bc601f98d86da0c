"""Objectives by name, imported when asked for. A new one is a file and a line here."""

TABLE = {
    "adakd": "stillsmall.objectives.adakd:AdaptiveDistillation",
    "akd": "stillsmall.objectives.akd:AdversarialDistillation",
    "askd": "stillsmall.objectives.askd:SelfDistillation",
    "ce": "stillsmall.objectives.ce:CrossEntropy",
    "drkd": "stillsmall.objectives.drkd:RightedTeacher",
    "focal": "stillsmall.objectives.focal:Focal",
    "hidden": "stillsmall.objectives.hidden:HiddenStates",
    "imitkd": "stillsmall.objectives.imitkd:Imitation",
    "joint": "stillsmall.objectives.joint:JointTraining",
    "kd": "stillsmall.objectives.kd:KnowledgeDistillation",
    "label_smoothing": "stillsmall.objectives.label_smoothing:LabelSmoothing",
    "multi_teacher": "stillsmall.objectives.multi_teacher:MultiTeacher",
    "okd": "stillsmall.objectives.okd:OnlineTeacher",
    "sequence_level": "stillsmall.objectives.sequence_level:SequenceLevel",
    "superloss": "stillsmall.objectives.superloss:SuperLoss",
}
