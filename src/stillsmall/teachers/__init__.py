"""Teachers by name, imported when asked for."""

TABLE = {
    "transformers": "stillsmall.teachers.transformers:TransformersTeacher",
    "fake": "stillsmall.teachers.fake:FakeTeacher",
}
