"""Objectives by name, imported when asked for. A new one is a file and a line here."""

TABLE = {
    "akd": "stillsmall.objectives.akd:AdversarialDistillation",
    "askd": "stillsmall.objectives.askd:SelfDistillation",
    "ce": "stillsmall.objectives.ce:CrossEntropy",
    "drkd": "stillsmall.objectives.drkd:RightedTeacher",
    "imitkd": "stillsmall.objectives.imitkd:Imitation",
    "joint": "stillsmall.objectives.joint:JointTraining",
    "kd": "stillsmall.objectives.kd:KnowledgeDistillation",
    "multi_teacher": "stillsmall.objectives.multi_teacher:MultiTeacher",
    "okd": "stillsmall.objectives.okd:OnlineTeacher",
    "sequence_level": "stillsmall.objectives.sequence_level:SequenceLevel",
}
