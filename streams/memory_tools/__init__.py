"""What `ruvllm memory` does: look at memory, draw it, carry it elsewhere, keep it.

Start with `reading.py` (memory as the log has it now, without disturbing the workers), then `facts.py` (a node,
its neighbours, the heaviest edges). `export.py` and `importing.py` carry what is known to another installation,
as events of its log; `backup.py` keeps and restores snapshots; `picture.py` and `drawing.py` draw.
"""
