"""How candidates for an answer are ranked: graph attention over what memory found.

May import numpy and the rooms of models it needs (memory's lexicon); torch only in `training`.
Start reading at `candidate_graph` (what the ranker sees), then `graph_attention` (how it scores),
`training` (how it learns), `gate` (when what was learnt is trusted).
"""
