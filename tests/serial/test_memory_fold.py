"""Memory of the whole graph: documents come, change and go; it is the fold of its log and nothing else."""

from ruvllm.agents.memory_fold import CHANGES, fold
from ruvllm.schemas.memory import RemoveDocument
from ruvllm.streams.guard import read
from tests.serial.island import GOATS, LAMPS, forget, ingest, outcomes, put


def changes(system):
    return [(e.kind, getattr(e, "node_id", None) or e.edge_id) for e in system.events("memory.changed")]


def known(system, name):
    return [s for s in system.events("document.state") if s.document_id == f"{name}.md"][-1]


# --- documents ----------------------------------------------------------------------------------------


async def test_a_document_becomes_passages_in_order_with_edges_between_them(system):
    # given a document of two sections; when ingested; then each is a node, and the second follows the first
    assert await ingest(system, lamps=LAMPS) == ["added"]
    keeper, oil = (system.memory.node("default", node_id) for node_id in known(system, "lamps").nodes)
    assert (keeper.title, oil.title) == ("Lamps > The keeper", "Lamps > The oil")
    assert (keeper.position, oil.position, keeper.document_id) == (0, 1, "lamps.md")
    (edge,) = system.memory.edges_of("default", keeper.node_id)
    assert (edge.source, edge.target, edge.relation) == (keeper.node_id, oil.node_id, "follows")
    # and the receipt says what it took, and from which offset on answers can use it
    receipt = system.events("document.processed")[0]
    assert (receipt.chunks, receipt.added, receipt.removed) == (2, 2, 0)
    assert receipt.memory_offsets == {"0": 3}


async def test_ingesting_twice_changes_nothing(system):
    # given ingested documents; when the same come again, as new commands; then memory's log does not grow
    await ingest(system, lamps=LAMPS, goats=GOATS)
    before, digest = changes(system), system.memory.digest()
    assert await ingest(system, lamps=LAMPS, goats=GOATS) == ["unchanged", "unchanged"]
    assert changes(system) == before
    assert system.memory.digest() == digest


async def test_a_redelivered_command_changes_nothing_and_says_nothing(system):
    # given a document command that is delivered twice, and a removal too; when handled
    command = put("lamps", LAMPS, command_id="c-1")
    await system.send(command, command)
    await system.run()
    # then the second delivery of each has no effect
    assert outcomes(system) == ["added"]
    gone = RemoveDocument(document_id="lamps.md", command_id="c-2")
    await system.send(gone, gone, command)
    await system.run()
    assert outcomes(system) == ["added", "removed"]
    assert system.memory.stats().nodes == 0


async def test_a_changed_document_replaces_what_changed_only(system):
    # given a document of which one section changes; when it comes again
    await ingest(system, lamps=LAMPS)
    keeper, oil = known(system, "lamps").nodes
    before = len(changes(system))
    assert await ingest(system, lamps=LAMPS.replace("rapeseed", "beechnuts")) == ["replaced"]
    # then the other's node stays, and nothing of the old one is left
    kept, new = known(system, "lamps").nodes
    assert (kept == keeper, new != oil) == (True, True)
    assert [kind for kind, _ in changes(system)[before:]] == [
        "memory.edge_removed",
        "memory.node_removed",
        "memory.node_added",
        "memory.edge_added",
    ]
    assert system.memory.node("default", oil) is None
    answer = await system.ask("What is the lamp oil of Vellen pressed from?")
    assert "beechnuts" in answer.text
    assert not any("rapeseed" in source.snippet for source in answer.sources)


async def test_a_removed_document_no_longer_answers(system):
    # given two documents; when one is removed
    await ingest(system, lamps=LAMPS, goats=GOATS)
    assert (await system.ask("Who keeps the great lamp of Vellen?")).sources
    await forget(system, "lamps")
    # then nothing of it answers, the other does, and what is not there cannot be removed
    assert (await system.ask("Who keeps the great lamp of Vellen?")).finish_reason == "abstained"
    assert (await system.ask("Whose goat is Brim?")).sources
    await forget(system, "lamps")
    await forget(system, "never")
    assert outcomes(system)[-3:] == ["removed", "absent", "absent"]
    # and it may come again
    assert await ingest(system, lamps=LAMPS) == ["added"]
    assert (await system.ask("Who keeps the great lamp of Vellen?")).sources


async def test_a_change_of_metadata_alone_is_a_change(system):
    # given a document; when it comes with other metadata; then the filter finds it by these
    await system.send(put("lamps", LAMPS, metadata={"year": "1911"}))
    await system.send(put("lamps", LAMPS, metadata={"year": "2030"}))
    await system.run()
    assert outcomes(system) == ["added", "replaced"]
    assert system.memory.stats().nodes == 2
    question = "Who keeps the great lamp of Vellen?"
    assert (await system.ask(question, memory_filter={"year": "2030"})).sources
    assert not (await system.ask(question, memory_filter={"year": "1911"})).sources


async def test_a_text_that_comes_twice_in_a_document_has_two_nodes(system):
    # given a document that says the same twice; when ingested and cut by one; then each saying has its node
    section = "## Rule\n\nNo bells after dusk.\n\n"
    await ingest(system, rules="# Rules\n\n" + section * 2)
    assert len(set(known(system, "rules").nodes)) == 2
    await ingest(system, rules="# Rules\n\n" + section)
    assert system.memory.stats().nodes == 1


async def test_two_documents_of_the_same_text_do_not_share_a_node(system):
    # given the same text under two names; when one is removed; then the other still answers
    await ingest(system, lamps=LAMPS, copy=LAMPS)
    assert system.memory.stats().nodes == 4
    await forget(system, "lamps")
    assert [s.title for s in (await system.ask("Who keeps the great lamp of Vellen?")).sources][:1] == [
        "Lamps > The keeper"
    ]


# --- tenants ------------------------------------------------------------------------------------------


async def test_another_tenants_documents_never_appear(system):
    # given two tenants with a document of the same name and nearly the same words
    await system.send(
        put("lamps", LAMPS, tenant="default"),
        put("lamps", LAMPS.replace("Osk Arrin", "Maru Teel"), tenant="harbour"),
        put("secrets", "# Secrets\n\nThe vault of Vellen opens with the word heron.", tenant="harbour"),
    )
    await system.run()
    # when one asks what both, or only the other, could know
    keeper = await system.ask("Who keeps the great lamp of Vellen?")
    vault = await system.ask("Which word opens the vault of Vellen?")
    # then nothing of the other is retrieved, shown or said
    own = {n.node_id for n in system.memory.contents().nodes if n.tenant == "default"}
    seen = {p.node_id for e in system.events("context.retrieved") for p in e.retrieval.passages}
    assert own.isdisjoint(n.node_id for n in system.memory.contents().nodes if n.tenant == "harbour")
    assert "Osk Arrin" in keeper.text
    assert "heron" not in vault.text
    assert seen and seen <= own
    assert {s.node_id for r in (keeper, vault) for s in r.sources} <= own
    # and neither document replaced the other
    assert outcomes(system) == ["added"] * 3
    assert system.memory.stats().tenants == 2


async def test_one_tenant_cannot_remove_anothers_document(system):
    # given a tenant's document; when another tenant removes that name; then it is absent there and stays here
    await ingest(system, lamps=LAMPS)
    await system.send(RemoveDocument(document_id="lamps.md", tenant="harbour"))
    await system.run()
    assert outcomes(system) == ["added", "absent"]
    assert system.memory.stats().nodes == 2


# --- the fold -----------------------------------------------------------------------------------------


async def a_life_of_documents(system):
    await ingest(system, lamps=LAMPS, goats=GOATS)
    await ingest(system, lamps=LAMPS.replace("rapeseed", "beechnuts"), nets="Nets are mended on Mondays.")
    await forget(system, "goats")


async def test_memory_is_the_fold_of_its_log(system):
    # given a memory with a past of additions, changes and removals; when its log is folded anew
    await a_life_of_documents(system)
    again, records = system.wiring.new_memory(), system.log.topics[system.names.topic("memory.changed")]
    for record in records:
        fold(again, read(record, CHANGES))
    # then it is the same, and redelivered changes of the end change nothing
    assert again.digest() == system.memory.digest()
    for record in records[-3:]:
        fold(again, read(record, CHANGES))
    assert again.digest() == system.memory.digest()


async def test_partitions_may_come_in_any_order(system):
    # given a memory's log as Kafka would hold it, in partitions by key; when they are folded one after the other
    await a_life_of_documents(system)
    digests = set()
    for order in (range(16), reversed(range(16))):
        memory, names = system.wiring.new_memory(), system.names
        events = [read(r, CHANGES) for r in system.log.topics[names.topic("memory.changed")]]
        for partition in order:
            for event in events:
                if names.partition(event) == partition:
                    fold(memory, event)
        digests.add(memory.digest())
    # then the order of partitions does not matter
    assert digests == {system.memory.digest()}
