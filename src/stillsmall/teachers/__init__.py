"""Teachers by name, imported when asked for."""

TABLE = {
    "transformers": "stillsmall.teachers.transformers:teacher",
    "ctranslate2": "stillsmall.teachers.ctranslate2:CTranslate2Teacher",
    "fake": "stillsmall.teachers.fake:FakeTeacher",
}
