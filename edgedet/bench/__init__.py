"""How fast models are here: measuring, the report, its picture, and the lecture's claims."""
