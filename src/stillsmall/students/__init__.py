"""How a student is cut from its teacher; `stillsmall.student` puts the parts together."""
