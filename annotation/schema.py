"""The tables, as an append-only list of named migration steps; a step is never changed once it is released.

Numbers that are missing among them were never released.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from annotation.sqlite import Migrations, sqlite_utils

migrations = Migrations("prefloop")


def step(name: str, *statements: str) -> None:
    """Add the step that runs these statements, one after the other."""

    @migrations(name=name)
    def run(db: sqlite_utils.Database) -> None:
        for statement in statements:
            db.execute(statement)


# Prompts, answers, comparisons, claims, judgements, accounts, models, jobs, snapshots, scores, settings.
step(
    "m001_first_schema",
    """CREATE TABLE prompt (
        id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, messages TEXT NOT NULL, source TEXT NOT NULL,
        split TEXT NOT NULL CHECK (split IN ('train', 'held-out')), created TEXT NOT NULL)""",
    """CREATE TABLE annotator (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE,
        role TEXT NOT NULL CHECK (role IN ('annotator', 'admin')),
        password_hash TEXT, active INTEGER NOT NULL DEFAULT 1, created TEXT NOT NULL)""",
    """CREATE TABLE session (
        token_sha256 TEXT PRIMARY KEY, annotator_id INTEGER NOT NULL REFERENCES annotator,
        created TEXT NOT NULL, expires TEXT NOT NULL)""",
    """CREATE TABLE sign_in_link (
        token_sha256 TEXT PRIMARY KEY, annotator_id INTEGER NOT NULL REFERENCES annotator,
        expires TEXT NOT NULL, used TEXT)""",
    """CREATE TABLE job (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, spec TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN
            ('queued', 'running', 'cancelling', 'cancelled', 'finished', 'failed', 'lost')),
        attempt INTEGER NOT NULL DEFAULT 0, worker TEXT, requested_by TEXT NOT NULL, created TEXT NOT NULL,
        started TEXT, heartbeat TEXT, finished TEXT, step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL DEFAULT 0,
        message TEXT NOT NULL DEFAULT '', result TEXT)""",
    """CREATE TABLE event (
        id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL REFERENCES job, kind TEXT NOT NULL
            CHECK (kind IN ('metric', 'log')), step INTEGER NOT NULL, data TEXT NOT NULL, created TEXT NOT NULL)""",
    "CREATE INDEX event_by_job ON event (job_id, kind, id)",
    """CREATE TABLE model (
        id INTEGER PRIMARY KEY, revision TEXT NOT NULL UNIQUE, method TEXT NOT NULL, base TEXT NOT NULL,
        parent_id INTEGER REFERENCES model, job_id INTEGER REFERENCES job, path TEXT, sha256 TEXT,
        status TEXT NOT NULL CHECK (status IN ('candidate', 'serving', 'retired', 'rejected')),
        created TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX one_serving_model ON model (status) WHERE status = 'serving'",
    """CREATE TABLE promotion (
        id INTEGER PRIMARY KEY, model_id INTEGER NOT NULL REFERENCES model, previous_id INTEGER REFERENCES model,
        action TEXT NOT NULL CHECK (action IN ('promote', 'reject', 'rollback')), decided_by TEXT NOT NULL,
        created TEXT NOT NULL)""",
    """CREATE TABLE response (
        id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompt,
        model_id INTEGER NOT NULL REFERENCES model,
        purpose TEXT NOT NULL CHECK (purpose IN ('compare', 'evaluate')), text TEXT NOT NULL, sampling TEXT NOT NULL,
        seed INTEGER NOT NULL, rendered_prompt TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, tokens INTEGER NOT NULL,
        finish_reason TEXT NOT NULL CHECK (finish_reason IN ('stop', 'length')),
        dropped TEXT CHECK (dropped IN ('empty', 'duplicate')), created TEXT NOT NULL)""",
    "CREATE INDEX response_by_prompt ON response (prompt_id, model_id, purpose)",
    """CREATE TABLE comparison (
        id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompt,
        model_id INTEGER NOT NULL REFERENCES model, purpose TEXT NOT NULL CHECK (purpose IN ('preference')),
        created TEXT NOT NULL)""",
    """CREATE TABLE comparison_response (
        comparison_id INTEGER NOT NULL REFERENCES comparison, position INTEGER NOT NULL,
        response_id INTEGER NOT NULL REFERENCES response, PRIMARY KEY (comparison_id, position))""",
    """CREATE TABLE claim (
        id INTEGER PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, comparison_id INTEGER NOT NULL REFERENCES comparison,
        annotator_id INTEGER NOT NULL REFERENCES annotator, slot INTEGER NOT NULL, shown_order TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('held', 'judged', 'skipped', 'released')),
        created TEXT NOT NULL, expires TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX claim_one_per_slot ON claim (comparison_id, slot) WHERE state IN ('held', 'judged')",
    "CREATE UNIQUE INDEX claim_one_in_hand ON claim (annotator_id) WHERE state = 'held'",
    """CREATE TABLE judgement (
        id INTEGER PRIMARY KEY, claim_id INTEGER NOT NULL REFERENCES claim,
        comparison_id INTEGER NOT NULL REFERENCES comparison, annotator_id INTEGER NOT NULL REFERENCES annotator,
        outcome TEXT NOT NULL CHECK (outcome IN ('ranked', 'all-bad', 'skip', 'undone')), ranking TEXT,
        strength INTEGER, shown_order TEXT NOT NULL, seconds REAL NOT NULL,
        supersedes INTEGER UNIQUE REFERENCES judgement, created TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX judgement_one_per_claim ON judgement (claim_id) WHERE supersedes IS NULL",
    "CREATE INDEX judgement_by_comparison ON judgement (comparison_id)",
    "CREATE INDEX judgement_by_annotator ON judgement (annotator_id, id)",
    """CREATE TRIGGER judgement_no_update BEFORE UPDATE ON judgement
        BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END""",
    """CREATE TRIGGER judgement_no_delete BEFORE DELETE ON judgement
        BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END""",
    """CREATE VIEW current_judgement AS SELECT * FROM judgement j WHERE outcome != 'undone'
        AND NOT EXISTS (SELECT 1 FROM judgement later WHERE later.supersedes = j.id)""",
    """CREATE TABLE snapshot (
        sha256 TEXT PRIMARY KEY, path TEXT NOT NULL, rows INTEGER NOT NULL, counts TEXT NOT NULL,
        last_judgement_id INTEGER NOT NULL, created TEXT NOT NULL)""",
    """CREATE TABLE score (
        response_id INTEGER NOT NULL REFERENCES response, scorer TEXT NOT NULL, value REAL NOT NULL,
        PRIMARY KEY (response_id, scorer))""",
    "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)

# Finding a policy's or a prompt's comparisons must not slow down as they grow.
step(
    "m002_index_comparisons",
    "CREATE INDEX comparison_by_prompt ON comparison (prompt_id)",
    "CREATE INDEX comparison_by_model ON comparison (model_id, id)",
    "CREATE INDEX claim_by_comparison ON claim (comparison_id, state)",
    "CREATE INDEX job_by_status ON job (status, kind)",
)

# Rankings of several answers, reasons, edits, streaming, overlap, gold, re-asks, guidelines and imports.
# SQLite can't loosen a constraint, so tables are built anew and take the old one's rows and name.
step(
    "m003_many_annotators",
    "DROP VIEW current_judgement",
    """CREATE TABLE import (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, format TEXT NOT NULL, counts TEXT NOT NULL,
        requested_by TEXT NOT NULL, created TEXT NOT NULL)""",
    """CREATE TABLE guidelines (
        version INTEGER PRIMARY KEY, text TEXT NOT NULL, written_by TEXT NOT NULL, created TEXT NOT NULL)""",
    "ALTER TABLE prompt ADD COLUMN import_id INTEGER REFERENCES import",
    """ALTER TABLE annotator ADD COLUMN kind TEXT NOT NULL DEFAULT 'person'
        CHECK (kind IN ('person', 'ai', 'import'))""",
    # The latest row of an annotator says whether its judgements are trained on; without one they are.
    """CREATE TABLE exclusion (
        id INTEGER PRIMARY KEY, annotator_id INTEGER NOT NULL REFERENCES annotator, excluded INTEGER NOT NULL,
        reason TEXT NOT NULL, decided_by TEXT NOT NULL, created TEXT NOT NULL)""",
    """CREATE TABLE gold_decision (
        id INTEGER PRIMARY KEY, comparison_id INTEGER NOT NULL REFERENCES comparison,
        action TEXT NOT NULL CHECK (action IN ('make', 'retire', 'reinstate', 'release')), expected TEXT,
        previous_state TEXT NOT NULL, decided_by TEXT NOT NULL, created TEXT NOT NULL)""",
    """CREATE TABLE new_response (
        id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompt,
        origin TEXT NOT NULL CHECK (origin IN ('policy', 'import', 'person')),
        model_id INTEGER REFERENCES model, annotator_id INTEGER REFERENCES annotator,
        edited_from INTEGER REFERENCES response, import_id INTEGER REFERENCES import,
        purpose TEXT NOT NULL CHECK (purpose IN ('compare', 'evaluate', 'demonstrate')), text TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'done' CHECK (state IN ('writing', 'done', 'failed')),
        sampling TEXT, seed INTEGER, rendered_prompt TEXT, prompt_tokens INTEGER, tokens INTEGER,
        finish_reason TEXT CHECK (finish_reason IN ('stop', 'length')),
        dropped TEXT CHECK (dropped IN ('empty', 'duplicate')), created TEXT NOT NULL,
        CHECK (origin != 'policy' OR model_id IS NOT NULL))""",
    """INSERT INTO new_response (id, prompt_id, origin, model_id, purpose, text, sampling, seed, rendered_prompt,
            prompt_tokens, tokens, finish_reason, dropped, created)
        SELECT id, prompt_id, 'policy', model_id, purpose, text, sampling, seed, rendered_prompt, prompt_tokens,
            tokens, finish_reason, dropped, created FROM response""",
    "DROP TABLE response",
    "ALTER TABLE new_response RENAME TO response",
    "CREATE INDEX response_by_prompt ON response (prompt_id, model_id, purpose)",
    "CREATE INDEX response_in_progress ON response (state) WHERE state = 'writing'",
    # `taken` counts the annotators who hold or have judged it in a slot of its own; triggers on claim keep it.
    """CREATE TABLE new_comparison (
        id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompt, model_id INTEGER REFERENCES model,
        purpose TEXT NOT NULL CHECK (purpose IN ('preference', 'gold')),
        state TEXT NOT NULL DEFAULT 'ready'
            CHECK (state IN ('asked', 'writing', 'ready', 'failed', 'withdrawn', 'closed')),
        expected TEXT, asked_by INTEGER REFERENCES annotator, import_id INTEGER REFERENCES import,
        taken INTEGER NOT NULL DEFAULT 0, created TEXT NOT NULL,
        CHECK ((purpose = 'gold') = (expected IS NOT NULL)))""",
    """INSERT INTO new_comparison (id, prompt_id, model_id, purpose, taken, created)
        SELECT id, prompt_id, model_id, purpose, (SELECT count(*) FROM claim k WHERE k.comparison_id = comparison.id
            AND k.state IN ('held', 'judged')), created FROM comparison""",
    "DROP TABLE comparison",
    "ALTER TABLE new_comparison RENAME TO comparison",
    "CREATE INDEX comparison_by_prompt ON comparison (prompt_id, taken)",
    "CREATE INDEX comparison_open ON comparison (purpose, state, model_id, taken)",
    "CREATE INDEX comparison_asked ON comparison (asked_by, purpose, state, taken) WHERE asked_by IS NOT NULL",
    """CREATE TABLE new_claim (
        id INTEGER PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, comparison_id INTEGER NOT NULL REFERENCES comparison,
        annotator_id INTEGER NOT NULL REFERENCES annotator,
        purpose TEXT NOT NULL CHECK (purpose IN ('own', 'gold', 're-ask', 'adjudication')),
        kind TEXT NOT NULL CHECK (kind IN ('pair', 'best', 'rank')), slot INTEGER,
        re_ask_of INTEGER REFERENCES judgement, guidelines_version INTEGER REFERENCES guidelines,
        shown_order TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('held', 'judged', 'skipped', 'released')),
        created TEXT NOT NULL, expires TEXT NOT NULL, CHECK ((purpose = 'own') = (slot IS NOT NULL)))""",
    """INSERT INTO new_claim (id, nonce, comparison_id, annotator_id, purpose, kind, slot, shown_order, state, created,
            expires)
        SELECT id, nonce, comparison_id, annotator_id, 'own', 'pair', slot, shown_order, state, created, expires
        FROM claim""",
    "DROP TABLE claim",
    "ALTER TABLE new_claim RENAME TO claim",
    "CREATE UNIQUE INDEX claim_one_per_slot ON claim (comparison_id, slot) WHERE state IN ('held', 'judged')",
    "CREATE UNIQUE INDEX claim_one_in_hand ON claim (annotator_id) WHERE state = 'held'",
    """CREATE UNIQUE INDEX claim_once_a_person ON claim (annotator_id, comparison_id)
        WHERE state IN ('held', 'judged', 'skipped') AND purpose IN ('own', 'gold')""",
    "CREATE UNIQUE INDEX claim_re_ask_once ON claim (re_ask_of) WHERE state IN ('held', 'judged', 'skipped')",
    "CREATE INDEX claim_by_comparison ON claim (comparison_id, state)",
    "CREATE INDEX claim_by_annotator ON claim (annotator_id, state, created)",
    "CREATE INDEX claim_expiry ON claim (expires) WHERE state = 'held'",
    """CREATE TRIGGER claim_takes_slot AFTER INSERT ON claim
        WHEN new.slot IS NOT NULL AND new.state IN ('held', 'judged')
        BEGIN UPDATE comparison SET taken = taken + 1 WHERE id = new.comparison_id; END""",
    """CREATE TRIGGER claim_changes_slot AFTER UPDATE OF state ON claim WHEN new.slot IS NOT NULL
        AND (new.state IN ('held', 'judged')) != (old.state IN ('held', 'judged'))
        BEGIN UPDATE comparison SET taken = taken + CASE WHEN new.state IN ('held', 'judged') THEN 1 ELSE -1 END
            WHERE id = new.comparison_id; END""",
    # `strength` had two levels: 'better' (2) is now 'clearly' of slightly 1, clearly 2, much 3.
    """CREATE TABLE new_judgement (
        id INTEGER PRIMARY KEY, claim_id INTEGER REFERENCES claim,
        comparison_id INTEGER NOT NULL REFERENCES comparison, annotator_id INTEGER NOT NULL REFERENCES annotator,
        purpose TEXT NOT NULL CHECK (purpose IN ('own', 'gold', 're-ask', 'adjudication', 'import')),
        kind TEXT NOT NULL CHECK (kind IN ('pair', 'best', 'rank')),
        outcome TEXT NOT NULL CHECK (outcome IN ('ranked', 'all-bad', 'skip', 'undone')), ranking TEXT,
        strength INTEGER, tags TEXT NOT NULL DEFAULT '[]', note TEXT NOT NULL DEFAULT '',
        flag TEXT CHECK (flag IN ('harmful', 'personal-data', 'broken')),
        edited_response_id INTEGER REFERENCES response, early INTEGER NOT NULL DEFAULT 0,
        guidelines_version INTEGER REFERENCES guidelines, re_ask_of INTEGER REFERENCES judgement,
        shown_order TEXT NOT NULL, seconds REAL, import_id INTEGER REFERENCES import,
        supersedes INTEGER UNIQUE REFERENCES judgement, created TEXT NOT NULL,
        CHECK ((claim_id IS NULL) = (purpose = 'import')))""",
    """INSERT INTO new_judgement (id, claim_id, comparison_id, annotator_id, purpose, kind, outcome, ranking, strength,
            shown_order, seconds, supersedes, created)
        SELECT id, claim_id, comparison_id, annotator_id, 'own', 'pair', outcome, ranking, strength, shown_order,
            seconds, supersedes, created FROM judgement""",
    "DROP TABLE judgement",
    "ALTER TABLE new_judgement RENAME TO judgement",
    """CREATE UNIQUE INDEX judgement_one_per_claim ON judgement (claim_id)
        WHERE supersedes IS NULL AND claim_id IS NOT NULL""",
    "CREATE INDEX judgement_by_comparison ON judgement (comparison_id)",
    "CREATE INDEX judgement_by_annotator ON judgement (annotator_id, id)",
    """CREATE TRIGGER judgement_no_update BEFORE UPDATE ON judgement
        BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END""",
    """CREATE TRIGGER judgement_no_delete BEFORE DELETE ON judgement
        BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END""",
    """CREATE VIEW current_judgement AS SELECT * FROM judgement j WHERE outcome != 'undone'
        AND NOT EXISTS (SELECT 1 FROM judgement later WHERE later.supersedes = j.id)""",
)

# A queue that can be reordered, sample answers of runs, reward models, and what kind of weights a model has.
step(
    "m004_every_method",
    # Jobs wait in the order of their position; one that nobody has moved waits where its id puts it.
    "ALTER TABLE job ADD COLUMN position REAL",
    """CREATE TABLE new_event (
        id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL REFERENCES job, kind TEXT NOT NULL
            CHECK (kind IN ('metric', 'log', 'sample')), step INTEGER NOT NULL, data TEXT NOT NULL,
        created TEXT NOT NULL)""",
    "INSERT INTO new_event SELECT id, job_id, kind, step, data, created FROM event",
    "DROP TABLE event",
    "ALTER TABLE new_event RENAME TO event",
    "CREATE INDEX event_by_job ON event (job_id, kind, id)",
    "ALTER TABLE model ADD COLUMN kind TEXT NOT NULL DEFAULT 'policy' CHECK (kind IN ('policy', 'reward'))",
    "ALTER TABLE model ADD COLUMN form TEXT NOT NULL DEFAULT 'lora' CHECK (form IN ('base', 'lora', 'prompt', 'full'))",
    # The precision of the weights under an adapter, or of fully trained ones.
    "ALTER TABLE model ADD COLUMN weights TEXT NOT NULL DEFAULT 'nf4' CHECK (weights IN ('nf4', 'bf16', 'fp32'))",
    # The fully trained model that an adapter lies on; none for the base.
    "ALTER TABLE model ADD COLUMN ground_id INTEGER REFERENCES model",
    # When its files were deleted; the row stays, for it says where others came from.
    "ALTER TABLE model ADD COLUMN deleted TEXT",
    "UPDATE model SET form = 'base' WHERE method = 'base'",
    """CREATE TABLE new_promotion (
        id INTEGER PRIMARY KEY, model_id INTEGER NOT NULL REFERENCES model, previous_id INTEGER REFERENCES model,
        action TEXT NOT NULL CHECK (action IN ('promote', 'reject', 'rollback', 'delete')), decided_by TEXT NOT NULL,
        created TEXT NOT NULL)""",
    "INSERT INTO new_promotion SELECT id, model_id, previous_id, action, decided_by, created FROM promotion",
    "DROP TABLE promotion",
    "ALTER TABLE new_promotion RENAME TO promotion",
)

# AI judges with their verdicts and rubrics, candidate against serving policy, decisions with reasons, chats.
step(
    "m005_ai_feedback",
    "DROP VIEW current_judgement",
    # A judge's judgement has no claim: it takes no person's place.
    """CREATE TABLE new_judgement (
        id INTEGER PRIMARY KEY, claim_id INTEGER REFERENCES claim,
        comparison_id INTEGER NOT NULL REFERENCES comparison, annotator_id INTEGER NOT NULL REFERENCES annotator,
        purpose TEXT NOT NULL CHECK (purpose IN ('own', 'gold', 're-ask', 'adjudication', 'import', 'judge')),
        kind TEXT NOT NULL CHECK (kind IN ('pair', 'best', 'rank')),
        outcome TEXT NOT NULL CHECK (outcome IN ('ranked', 'all-bad', 'skip', 'undone')), ranking TEXT,
        strength INTEGER, tags TEXT NOT NULL DEFAULT '[]', note TEXT NOT NULL DEFAULT '',
        flag TEXT CHECK (flag IN ('harmful', 'personal-data', 'broken')),
        edited_response_id INTEGER REFERENCES response, early INTEGER NOT NULL DEFAULT 0,
        guidelines_version INTEGER REFERENCES guidelines, re_ask_of INTEGER REFERENCES judgement,
        shown_order TEXT NOT NULL, seconds REAL, import_id INTEGER REFERENCES import,
        supersedes INTEGER UNIQUE REFERENCES judgement, created TEXT NOT NULL,
        CHECK ((claim_id IS NULL) = (purpose IN ('import', 'judge'))))""",
    "INSERT INTO new_judgement SELECT * FROM judgement",
    "DROP TABLE judgement",
    "ALTER TABLE new_judgement RENAME TO judgement",
    """CREATE UNIQUE INDEX judgement_one_per_claim ON judgement (claim_id)
        WHERE supersedes IS NULL AND claim_id IS NOT NULL""",
    "CREATE INDEX judgement_by_comparison ON judgement (comparison_id)",
    "CREATE INDEX judgement_by_annotator ON judgement (annotator_id, id)",
    """CREATE TRIGGER judgement_no_update BEFORE UPDATE ON judgement
        BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END""",
    """CREATE TRIGGER judgement_no_delete BEFORE DELETE ON judgement
        BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END""",
    """CREATE VIEW current_judgement AS SELECT * FROM judgement j WHERE outcome != 'undone'
        AND NOT EXISTS (SELECT 1 FROM judgement later WHERE later.supersedes = j.id)""",
    """CREATE UNIQUE INDEX judgement_once_a_judge ON judgement (annotator_id, comparison_id)
        WHERE purpose = 'judge' AND supersedes IS NULL""",
    # Who is to judge a comparison now: annotators, judges first, or nobody any more because judges have settled it.
    """ALTER TABLE comparison ADD COLUMN asks TEXT NOT NULL DEFAULT 'people'
        CHECK (asks IN ('people', 'judges', 'nobody'))""",
    # Why people are asked although judges have been.
    "ALTER TABLE comparison ADD COLUMN asks_why TEXT CHECK (asks_why IN ('audit', 'flip', 'disagreement', 'unsure'))",
    # Of answers by two policies to a held-out prompt, the candidate's at position 0: who is measured against whom.
    "ALTER TABLE comparison ADD COLUMN candidate_id INTEGER REFERENCES model",
    "ALTER TABLE comparison ADD COLUMN against_id INTEGER REFERENCES model",
    # Earlier versions put a check's answers before people too, the checked policy's first.
    """UPDATE comparison SET (candidate_id, against_id) = (
            SELECT one.model_id, other.model_id
            FROM comparison_response a JOIN response one ON one.id = a.response_id
                JOIN comparison_response b ON b.comparison_id = a.comparison_id
                JOIN response other ON other.id = b.response_id
            WHERE a.comparison_id = comparison.id AND a.position = 0 AND b.position = 1)
        WHERE model_id IS NULL AND id IN (SELECT cr.comparison_id FROM comparison_response cr
            JOIN response r ON r.id = cr.response_id WHERE r.purpose = 'evaluate')""",
    # In the modes in which judges come first, whatever makes a comparison: `set_feedback` sees to earlier ones.
    """CREATE TRIGGER comparison_asks_judges AFTER INSERT ON comparison
        WHEN new.purpose = 'preference' AND new.asked_by IS NULL AND new.candidate_id IS NULL
            AND (SELECT json_extract(value, '$.mode') FROM setting WHERE key = 'feedback') IN ('ai', 'mixed')
        BEGIN UPDATE comparison SET asks = 'judges' WHERE id = new.id; END""",
    "DROP INDEX comparison_open",
    "CREATE INDEX comparison_open ON comparison (purpose, state, asks, model_id, taken)",
    "CREATE INDEX comparison_duel ON comparison (candidate_id, against_id) WHERE candidate_id IS NOT NULL",
    """CREATE TABLE judge (
        annotator_id INTEGER PRIMARY KEY REFERENCES annotator,
        backend TEXT NOT NULL CHECK (backend IN ('local', 'reward-model', 'endpoint')), settings TEXT NOT NULL,
        active INTEGER NOT NULL DEFAULT 1, created_by TEXT NOT NULL, created TEXT NOT NULL)""",
    """CREATE TABLE rubric (
        version INTEGER PRIMARY KEY, instruction TEXT NOT NULL, principles TEXT NOT NULL, drawn INTEGER NOT NULL,
        written_by TEXT NOT NULL, created TEXT NOT NULL)""",
    # One answer of a judge: the answers at positions `first` and `second` shown in this order. `chance` is the judge's
    # probability that the first shown is better, where its backend gives one.
    """CREATE TABLE verdict (
        id INTEGER PRIMARY KEY, annotator_id INTEGER NOT NULL REFERENCES judge,
        comparison_id INTEGER NOT NULL REFERENCES comparison, first INTEGER NOT NULL, second INTEGER NOT NULL,
        rubric_version INTEGER REFERENCES rubric, principles TEXT NOT NULL DEFAULT '[]',
        choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'tie')), chance REAL, reply TEXT NOT NULL DEFAULT '',
        prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL,
        job_id INTEGER REFERENCES job, created TEXT NOT NULL, UNIQUE (annotator_id, comparison_id, first, second))""",
    "CREATE INDEX verdict_by_comparison ON verdict (comparison_id)",
    "ALTER TABLE promotion ADD COLUMN reason TEXT NOT NULL DEFAULT ''",
    # The playground: what is to be answered by a policy, and how far its answer has come.
    """CREATE TABLE chat (
        id INTEGER PRIMARY KEY, model_id INTEGER NOT NULL REFERENCES model, messages TEXT NOT NULL,
        sampling TEXT NOT NULL, seed INTEGER NOT NULL, requested_by TEXT NOT NULL, text TEXT NOT NULL DEFAULT '',
        state TEXT NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'writing', 'stopping', 'done', 'failed')),
        rendered_prompt TEXT, prompt_tokens INTEGER, tokens INTEGER,
        finish_reason TEXT CHECK (finish_reason IN ('stop', 'length', 'stopped')), message TEXT NOT NULL DEFAULT '',
        created TEXT NOT NULL, begun TEXT, finished TEXT)""",
    "CREATE INDEX chat_open ON chat (state) WHERE state IN ('asked', 'writing', 'stopping')",
)

# What went to the Hub and came from it, who signs in from there, and safe copies.
step(
    "m006_published",
    # Where a model comes from that was not trained here: OWNER/NAME@COMMIT on the Hub.
    "ALTER TABLE model ADD COLUMN source TEXT",
    """CREATE TABLE publication (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('model', 'dataset')),
        model_id INTEGER REFERENCES model, repo TEXT NOT NULL, tag TEXT NOT NULL, commit_sha TEXT NOT NULL,
        private INTEGER NOT NULL, published_by TEXT NOT NULL, created TEXT NOT NULL,
        CHECK ((kind = 'model') = (model_id IS NOT NULL)))""",
    # Safe copies of this database: those begun ('taken'), those that their place has confirmed ('safe'), and what the
    # database itself began from ('begun'). `version` is the place's name for it, `run` and `number` are ours.
    """CREATE TABLE safe_copy (
        id INTEGER PRIMARY KEY, place TEXT NOT NULL, version TEXT NOT NULL DEFAULT '', run TEXT NOT NULL,
        number INTEGER NOT NULL, last_judgement_id INTEGER NOT NULL, judgements INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('taken', 'safe', 'begun', 'failed', 'conflict')),
        message TEXT NOT NULL DEFAULT '', created TEXT NOT NULL)""",
    # Who a person is on the Hub: their id there, which outlives a change of name.
    "ALTER TABLE annotator ADD COLUMN hub_id TEXT",
    "CREATE UNIQUE INDEX annotator_by_hub_id ON annotator (hub_id)",
)

# What the page asks the holder of the Hub's token to do there, and training on rented hardware.
step(
    "m007_errands_and_rentals",
    # What people ask on the page: the web server has no token, so whoever has it takes these up, one by one.
    """CREATE TABLE errand (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, request TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'doing', 'done', 'failed')),
        message TEXT NOT NULL DEFAULT '', result TEXT, requested_by TEXT NOT NULL, created TEXT NOT NULL, begun TEXT,
        finished TEXT)""",
    "CREATE INDEX errand_open ON errand (state) WHERE state IN ('asked', 'doing')",
    # The rented hardware that a job is for; none for this machine.
    "ALTER TABLE job ADD COLUMN flavor TEXT",
    # What a person agreed to pay for it, in dollars, and where on the Hub it runs, once it does.
    """CREATE TABLE rental (
        job_id INTEGER PRIMARY KEY REFERENCES job, mark TEXT NOT NULL UNIQUE, price_per_hour REAL NOT NULL,
        hours REAL NOT NULL, namespace TEXT NOT NULL DEFAULT '', hub_job TEXT, url TEXT NOT NULL DEFAULT '',
        batches INTEGER NOT NULL DEFAULT 0, stage TEXT NOT NULL DEFAULT '', seconds REAL NOT NULL DEFAULT 0)""",
)

# One table of jobs: what was asked of the holder of the Hub's token is in it too, in a lane of its own.
step(
    "m008_lanes",
    # Who does it: a worker on this machine's devices, whoever holds the Hub's token, or the web server.
    """ALTER TABLE job ADD COLUMN lane TEXT NOT NULL DEFAULT 'device' CHECK (lane IN ('device', 'hub', 'web'))""",
    "UPDATE job SET lane = 'hub' WHERE flavor IS NOT NULL",
    # What was at work is taken up at once: whoever did it has ended, or this would not be a migration.
    """INSERT INTO job (lane, kind, spec, status, attempt, requested_by, created, started, heartbeat, finished, message,
            result)
        SELECT 'hub', kind, json_set(request, '$.kind', kind),
            CASE WHEN state = 'asked' THEN 'queued' WHEN state = 'done' THEN 'finished'
                WHEN state = 'doing' THEN iif(message = 'It was asked to stop.', 'cancelling', 'running')
                ELSE iif(message = 'It was cancelled.', 'cancelled', 'failed') END,
            iif(state = 'asked', 0, 1) + iif(finished IS NULL, coalesce(json_extract(result, '$.again'), 0), 0),
            requested_by, created, begun, iif(state = 'doing', '', NULL), finished, iif(finished IS NULL, '', message),
            iif(finished IS NULL, NULL, result)
        FROM errand ORDER BY id""",
    "DROP TABLE errand",
    "CREATE INDEX job_by_lane ON job (lane, kind, id)",
    # When the dataset through which a rented job's files went was deleted. `stage` is the Hub's word for its job there.
    "ALTER TABLE rental ADD COLUMN cleared TEXT",
    """UPDATE rental SET stage = 'COMPLETED',
            cleared = (SELECT coalesce(finished, created) FROM job WHERE job.id = rental.job_id)
        WHERE stage = 'CLEARED'""",
)

# Why a job ended or does not get on is data, and so is a change of its settings; messages are for people only.
step(
    "m009_reasons",
    # What the program goes by where it decides whether a job goes on, and how; none where nothing depends on it.
    """ALTER TABLE job ADD COLUMN reason TEXT
        CHECK (reason IN ('out-of-memory', 'killed', 'not-a-number', 'too-few-answers'))""",
    """UPDATE job SET reason = CASE
            WHEN message LIKE 'Memory ran out.%' THEN 'out-of-memory'
            WHEN message LIKE 'The worker was killed, often because memory ran out.%' THEN 'killed'
            WHEN message LIKE '%became not a number%' THEN 'not-a-number'
            WHEN message LIKE 'Too few different answers%' THEN 'too-few-answers' END""",
    # Pages put the status before the message, which began with it in some jobs.
    """UPDATE job SET message = CASE
            WHEN message = 'Cancelled before it began.' THEN 'It had not begun.'
            WHEN message = 'Cancelled, and the rented machine was given back.' THEN 'The rented machine was given back.'
            WHEN message LIKE 'Cancelled.%' THEN substr(message, length('Cancelled. ') + 1)
            ELSE message END
        WHERE status = 'cancelled'""",
    """UPDATE job SET message = 'An error of Prefloop''s own ended it ' || substr(message, length('Failed ') + 1)
        WHERE status = 'failed' AND message LIKE 'Failed (%'""",
    # 'change': a log line that says with what other settings a job was queued again.
    """CREATE TABLE new_event (
        id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL REFERENCES job, kind TEXT NOT NULL
            CHECK (kind IN ('metric', 'log', 'change', 'sample')), step INTEGER NOT NULL, data TEXT NOT NULL,
        created TEXT NOT NULL)""",
    """INSERT INTO new_event
        SELECT id, job_id, iif(kind = 'log' AND data LIKE '%Queued again with%', 'change', kind), step, data, created
        FROM event""",
    "DROP TABLE event",
    "ALTER TABLE new_event RENAME TO event",
    "CREATE INDEX event_by_job ON event (job_id, kind, id)",
)

# The precision of the weights that drew an answer: one policy's weights can be held in several.
step(
    "m010_precisions",
    # None of answers that no policy drew.
    "ALTER TABLE response ADD COLUMN weights TEXT CHECK (weights IN ('nf4', 'bf16', 'fp32'))",
    # Until now each policy answered in its own precision only, which never changed.
    "UPDATE response SET weights = (SELECT weights FROM model WHERE model.id = response.model_id)",
)

# Answers keep the tokens that were drawn, and the base whether it is told not to think.
step(
    "m011_token_ids",
    # The tokens that were drawn, the one that ended the answer included, as JSON: {"vocabulary": …, "ids": […]}. The
    # vocabulary is a hash of the tokenizer's. None of earlier, imported and edited answers: these are tokenised.
    "ALTER TABLE response ADD COLUMN token_ids TEXT",
    "ALTER TABLE chat ADD COLUMN token_ids TEXT",
    # Of the base: 'off', its template is told that the model is not to think, or 'template', it has it as it likes.
    # None in data directories from before there was a choice, which is as 'template'.
    "ALTER TABLE model ADD COLUMN thinking TEXT CHECK (thinking IN ('off', 'template'))",
    # Earlier versions took a reward model's chance from scores on PPO's scale: what its own would have been is unknown.
    """UPDATE verdict SET chance = NULL
        WHERE annotator_id IN (SELECT annotator_id FROM judge WHERE backend = 'reward-model')""",
)

# What held-out prompts were drawn for, and the chances with which comparisons were made and handed out.
step(
    "m012_held_out_sets_and_chances",
    # What a held-out prompt was drawn into: 0 what reports speak of, else a version of the gate's own set.
    "ALTER TABLE prompt ADD COLUMN held_for INTEGER",
    "CREATE INDEX prompt_held_for ON prompt (held_for) WHERE held_for IS NOT NULL",
    # Earlier versions took the first ones.
    """UPDATE prompt SET held_for = 0 WHERE id IN (
            SELECT id FROM prompt WHERE split = 'held-out' ORDER BY id LIMIT (
                SELECT coalesce(max(json_extract(made.value, '$.prompts')), 0)
                FROM setting, json_each(setting.value) made WHERE setting.key = 'held_out_sets'))""",
    # Chances as `annotation.selection` defines them; NULL where an earlier version, or somebody elsewhere, noted none.
    "ALTER TABLE comparison ADD COLUMN formed_chance REAL CHECK (formed_chance > 0 AND formed_chance <= 1)",
    "ALTER TABLE comparison ADD COLUMN people_chance REAL CHECK (people_chance BETWEEN 0 AND 1)",
    # Whether that draw gave it to people; who is asked now, `asks` says.
    "ALTER TABLE comparison ADD COLUMN people_drawn INTEGER CHECK (people_drawn IN (0, 1))",
    "ALTER TABLE claim ADD COLUMN chance REAL CHECK (chance > 0 AND chance <= 1)",
)

# An imported judgement keeps the chance with which its annotator was shown the comparison, where it is known.
# It has no claim, which notes that of the others. NULL is unknown.
step(
    "m013_imported_chances",
    """ALTER TABLE judgement ADD COLUMN imported_chance REAL
    CHECK (imported_chance > 0 AND imported_chance <= 1)""",
)

# A rejection can be taken back, which is a decision as well.
step(
    "m014_rejections_taken_back",
    """CREATE TABLE new_promotion (
        id INTEGER PRIMARY KEY, model_id INTEGER NOT NULL REFERENCES model, previous_id INTEGER REFERENCES model,
        action TEXT NOT NULL CHECK (action IN ('promote', 'reject', 'rollback', 'reopen', 'delete')),
        decided_by TEXT NOT NULL, created TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '')""",
    """INSERT INTO new_promotion (id, model_id, previous_id, action, decided_by, created, reason)
        SELECT id, model_id, previous_id, action, decided_by, created, reason FROM promotion""",
    "DROP TABLE promotion",
    "ALTER TABLE new_promotion RENAME TO promotion",
)

# What trained a policy is its algorithm, as a method is LoRA or QLoRA; what is checked is nowhere evaluated.
step(
    "m015_one_word_for_one_thing",
    "ALTER TABLE model RENAME COLUMN method TO algorithm",
    """UPDATE setting SET value = json_set(json_remove(value, '$.method'),
            '$.algorithm', json_extract(value, '$.method'))
        WHERE key = 'auto_train' AND json_type(value, '$.method') NOT NULL""",
    "UPDATE job SET kind = 'check', spec = json_set(spec, '$.kind', 'check') WHERE kind = 'evaluate'",
    # Whether what a training makes is checked when it ends.
    """UPDATE job SET spec = json_set(json_remove(spec, '$.evaluate'),
            '$.check', json(json_type(spec, '$.evaluate')))
        WHERE json_type(spec, '$.evaluate') IN ('true', 'false')""",
    """CREATE TABLE new_response (
        id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompt,
        origin TEXT NOT NULL CHECK (origin IN ('policy', 'import', 'person')),
        model_id INTEGER REFERENCES model, annotator_id INTEGER REFERENCES annotator,
        edited_from INTEGER REFERENCES response, import_id INTEGER REFERENCES import,
        purpose TEXT NOT NULL CHECK (purpose IN ('compare', 'check', 'demonstrate')), text TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'done' CHECK (state IN ('writing', 'done', 'failed')),
        sampling TEXT, seed INTEGER, rendered_prompt TEXT, prompt_tokens INTEGER, tokens INTEGER,
        finish_reason TEXT CHECK (finish_reason IN ('stop', 'length')),
        dropped TEXT CHECK (dropped IN ('empty', 'duplicate')), created TEXT NOT NULL,
        weights TEXT CHECK (weights IN ('nf4', 'bf16', 'fp32')), token_ids TEXT,
        CHECK (origin != 'policy' OR model_id IS NOT NULL))""",
    """INSERT INTO new_response (id, prompt_id, origin, model_id, annotator_id, edited_from, import_id, purpose, text,
            state, sampling, seed, rendered_prompt, prompt_tokens, tokens, finish_reason, dropped, created, weights,
            token_ids)
        SELECT id, prompt_id, origin, model_id, annotator_id, edited_from, import_id,
            iif(purpose = 'evaluate', 'check', purpose), text, state, sampling, seed, rendered_prompt, prompt_tokens,
            tokens, finish_reason, dropped, created, weights, token_ids
        FROM response""",
    "DROP TABLE response",
    "ALTER TABLE new_response RENAME TO response",
    "CREATE INDEX response_by_prompt ON response (prompt_id, model_id, purpose)",
    "CREATE INDEX response_in_progress ON response (state) WHERE state = 'writing'",
)

# What chose the answers of a comparison, and by what chance; unknown of all that there are.
# As `annotation.selection` defines them; NULL where an earlier version, or somebody elsewhere, noted none.
step(
    "m016_how_answers_were_chosen",
    "ALTER TABLE comparison ADD COLUMN answers_by TEXT CHECK (answers_by IN ('random', 'heads', 'person'))",
    "ALTER TABLE comparison ADD COLUMN answers_chance REAL CHECK (answers_chance > 0 AND answers_chance <= 1)",
)

# What people's judgements of a comparison come to; `opinion` as `annotation.metrics.agreement.disputes` sees it.
STANDING = """(judged, last_judged, flagged, opinion) = (
        (SELECT count(DISTINCT j.annotator_id) FROM current_judgement j WHERE j.comparison_id = comparison.id
            AND j.outcome != 'skip' AND j.purpose NOT IN ('judge', 're-ask')),
        (SELECT max(j.created) FROM current_judgement j WHERE j.comparison_id = comparison.id
            AND j.outcome != 'skip' AND j.purpose != 'judge'),
        EXISTS (SELECT 1 FROM current_judgement j WHERE j.comparison_id = comparison.id AND j.flag NOT NULL),
        CASE WHEN EXISTS (SELECT 1 FROM current_judgement j WHERE j.comparison_id = comparison.id
                AND j.purpose = 'settle' AND j.outcome != 'skip'
                AND j.annotator_id NOT IN (SELECT annotator_id FROM excluded_annotator)) THEN 'settled'
            WHEN EXISTS (SELECT 1 FROM opinion a JOIN opinion b
                    ON b.comparison_id = a.comparison_id AND b.annotator_id > a.annotator_id,
                    json_each(a.ranking) x, json_each(a.ranking) y, json_each(b.ranking) v, json_each(b.ranking) w
                WHERE a.comparison_id = comparison.id AND v.key = x.key AND w.key = y.key
                    AND x.value < y.value AND v.value > w.value) THEN 'disputed'
            WHEN EXISTS (SELECT 1 FROM opinion o WHERE o.comparison_id = comparison.id) THEN 'agreed'
            ELSE 'none' END)"""

# The same as earlier versions said it.
STANDING_BEFORE = STANDING.replace("'settle'", "'adjudication'")

# The words of a prompt `p`: what its turns say, without their roles.
PROMPT_WORDS = (
    """(SELECT group_concat(json_extract(turn.value, '$.content'), char(10)) FROM json_each({}.messages) turn)"""
)

# How each comparison stands and its words, for a table of all; bulk changes, groups, quotas, invitations.
step(
    "m017_workbench",
    # Annotators, re-asks and judges aside, whose judgements that say something stand; triggers keep these.
    "ALTER TABLE comparison ADD COLUMN judged INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE comparison ADD COLUMN last_judged TEXT",
    "ALTER TABLE comparison ADD COLUMN flagged INTEGER NOT NULL DEFAULT 0",
    """ALTER TABLE comparison ADD COLUMN opinion TEXT NOT NULL DEFAULT 'none'
        CHECK (opinion IN ('none', 'agreed', 'disputed', 'settled'))""",
    # Whether only those may have it whom it was assigned to; `annotation.claims.assignments` keeps it.
    "ALTER TABLE comparison ADD COLUMN assigned INTEGER NOT NULL DEFAULT 0",
    """CREATE VIEW excluded_annotator AS SELECT annotator_id FROM exclusion e
        WHERE excluded AND id = (SELECT max(id) FROM exclusion later WHERE later.annotator_id = e.annotator_id)""",
    """CREATE VIEW opinion AS SELECT comparison_id, annotator_id, ranking FROM current_judgement
        WHERE purpose IN ('own', 'import') AND ranking NOT NULL AND NOT early
            AND annotator_id NOT IN (SELECT annotator_id FROM excluded_annotator)""",
    f"""UPDATE comparison SET {STANDING_BEFORE}
        WHERE id IN (SELECT comparison_id FROM judgement WHERE purpose != 'judge')""",
    # An import says so itself: row by row it would hold the database for seconds.
    f"""CREATE TRIGGER judgement_counts AFTER INSERT ON judgement WHEN new.purpose NOT IN ('judge', 'import')
        BEGIN UPDATE comparison SET {STANDING_BEFORE} WHERE id = new.comparison_id; END""",
    f"""CREATE TRIGGER exclusion_counts AFTER INSERT ON exclusion
        BEGIN UPDATE comparison SET {STANDING_BEFORE}
            WHERE id IN (SELECT comparison_id FROM judgement WHERE annotator_id = new.annotator_id); END""",
    "CREATE INDEX comparison_last_judged ON comparison (last_judged)",
    "CREATE INDEX comparison_judged ON comparison (judged)",
    # All that its status is made of, so that a status is counted without reading the rows.
    """CREATE INDEX comparison_standing
        ON comparison (purpose, opinion, judged, assigned, state, asks, candidate_id)""",
    "CREATE INDEX comparison_assigned ON comparison (assigned) WHERE assigned = 1",
    "CREATE INDEX prompt_by_source ON prompt (source)",
    "CREATE INDEX comparison_response_by_response ON comparison_response (response_id)",
    "DROP INDEX comparison_open",
    "CREATE INDEX comparison_open ON comparison (purpose, state, asks, model_id, assigned, taken)",
    # The words of prompts and of finished answers. Derived: the texts themselves are in their tables.
    "CREATE VIRTUAL TABLE prompt_words USING fts5 (text, content = '')",
    f"INSERT INTO prompt_words (rowid, text) SELECT id, {PROMPT_WORDS.format('prompt')} FROM prompt",
    # Those of imports are put in by `annotation.workbench.word_index`, a little at a time.
    f"""CREATE TRIGGER prompt_words_added AFTER INSERT ON prompt WHEN new.import_id IS NULL
        BEGIN INSERT INTO prompt_words (rowid, text) VALUES (new.id, {PROMPT_WORDS.format("new")}); END""",
    f"""CREATE TRIGGER prompt_words_gone AFTER DELETE ON prompt
        WHEN EXISTS (SELECT 1 FROM prompt_words_docsize WHERE id = old.id)
        BEGIN INSERT INTO prompt_words (prompt_words, rowid, text)
            VALUES ('delete', old.id, {PROMPT_WORDS.format("old")}); END""",
    "CREATE VIRTUAL TABLE answer_words USING fts5 (text, content = '')",
    "INSERT INTO answer_words (rowid, text) SELECT id, text FROM response WHERE state = 'done'",
    """INSERT INTO setting (key, value) SELECT 'words_of_imports', CAST(max(id) AS TEXT) FROM import
        HAVING max(id) NOT NULL""",
    """CREATE TRIGGER answer_words_added AFTER INSERT ON response WHEN new.state = 'done' AND new.import_id IS NULL
        BEGIN INSERT INTO answer_words (rowid, text) VALUES (new.id, new.text); END""",
    """CREATE TRIGGER answer_words_changed AFTER UPDATE OF text, state ON response
        WHEN new.import_id IS NULL AND (old.state = 'done' OR new.state = 'done')
        BEGIN
            INSERT INTO answer_words (answer_words, rowid, text)
                SELECT 'delete', old.id, old.text WHERE old.state = 'done';
            INSERT INTO answer_words (rowid, text) SELECT new.id, new.text WHERE new.state = 'done';
        END""",
    """CREATE TRIGGER answer_words_gone AFTER DELETE ON response
        WHEN EXISTS (SELECT 1 FROM answer_words_docsize WHERE id = old.id)
        BEGIN INSERT INTO answer_words (answer_words, rowid, text) VALUES ('delete', old.id, old.text); END""",
    # A change of many comparisons at once: to whom they are assigned (a person or a group), or what else was done.
    """CREATE TABLE bulk_change (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('assign', 'release', 'settle', 'skip', 'withdraw')),
        annotator_id INTEGER REFERENCES annotator, group_name TEXT, decided_by TEXT NOT NULL, created TEXT NOT NULL,
        undone_by TEXT, undone TEXT, CHECK (annotator_id IS NULL OR group_name IS NULL))""",
    # `state` is that of an assignment, or of one to settle; `before` is what an undo goes back to.
    """CREATE TABLE bulk_change_comparison (
        change_id INTEGER NOT NULL REFERENCES bulk_change, comparison_id INTEGER NOT NULL REFERENCES comparison,
        before TEXT, state TEXT CHECK (state IN ('stands', 'done', 'released')),
        PRIMARY KEY (change_id, comparison_id))""",
    "CREATE INDEX bulk_change_by_comparison ON bulk_change_comparison (comparison_id)",
    """CREATE INDEX bulk_change_standing ON bulk_change_comparison (change_id, comparison_id) WHERE state = 'stands'""",
    # The assignment, or the other bulk change, that put a comparison into these hands.
    "ALTER TABLE claim ADD COLUMN assigned_by INTEGER REFERENCES bulk_change",
    """CREATE TABLE annotator_group (
        name TEXT NOT NULL COLLATE NOCASE, annotator_id INTEGER NOT NULL REFERENCES annotator,
        PRIMARY KEY (name, annotator_id))""",
    "CREATE INDEX annotator_group_by_annotator ON annotator_group (annotator_id)",
    # How many comparisons somebody shall judge in all; none for no end.
    "ALTER TABLE annotator ADD COLUMN quota INTEGER CHECK (quota > 0)",
    """CREATE TABLE invitation (
        id INTEGER PRIMARY KEY, token_sha256 TEXT NOT NULL UNIQUE, group_name TEXT, quota INTEGER CHECK (quota > 0),
        uses INTEGER NOT NULL CHECK (uses > 0), used INTEGER NOT NULL DEFAULT 0 CHECK (used <= uses),
        invited_by TEXT NOT NULL, created TEXT NOT NULL, expires TEXT NOT NULL, withdrawn TEXT)""",
    "ALTER TABLE annotator ADD COLUMN invitation_id INTEGER REFERENCES invitation",
)

# A run has a name, tags and notes that people give it; the runs of earlier versions have none.
# Tags are words with commas between.
step(
    "m018_run_labels",
    """CREATE TABLE run_label (
    job_id INTEGER PRIMARY KEY REFERENCES job, name TEXT NOT NULL DEFAULT '', tags TEXT NOT NULL DEFAULT '',
    notes TEXT NOT NULL DEFAULT '', changed_by TEXT NOT NULL, changed TEXT NOT NULL)""",
)

# A score that is a mean over an answer's tokens can be kept token by token, to compare answers at equal length.
step(
    "m019_scores_per_token",
    "ALTER TABLE score ADD COLUMN per_token TEXT",  # JSON; NULL where only the mean was kept
)

# Each account is answered in a language of its own; NULL: in the server's, as before.
step("m020_language_of_each", "ALTER TABLE annotator ADD COLUMN language TEXT")

# Preference training ends where its policy has moved far enough; no earlier one did.
step(
    "m021_trainings_that_end_early",
    "UPDATE job SET spec = json_set(spec, '$.stop_kl', 0.0) "
    "WHERE kind = 'dpo' AND json_type(spec, '$.stop_kl') IS NULL",
)

# When people were given a comparison of a check that a draw had left to judges; not known of earlier ones.
step(
    "m024_when_people_were_given_more",
    "ALTER TABLE comparison ADD COLUMN people_given INTEGER",  # the last judgement before that
)

WITHDRAWN_BY_THINKING = """UPDATE comparison SET state = 'closed'
    WHERE purpose = 'preference' AND state = 'ready' AND taken = 0 AND asks = 'nobody' AND asks_why IS NULL
      AND candidate_id IS NULL AND model_id IS NOT NULL AND import_id IS NULL
      AND NOT EXISTS (SELECT 1 FROM judgement j JOIN annotator a ON a.id = j.annotator_id
          WHERE j.comparison_id = comparison.id AND a.kind = 'ai')"""

# What a change of thinking took out is withdrawn; an earlier version left it as what judges settle is left.
# Nothing else that was made here is asked of nobody without a judge's judgement on it, or 'unsure' in its place.
step("m026_withdrawn_by_thinking", WITHDRAWN_BY_THINKING)

# Nobody is asked about candidates whose files are deleted; earlier versions went on.
step(
    "m027_nobody_compares_deleted_candidates",
    "UPDATE comparison SET asks = 'nobody' WHERE asks = 'people' "
    "AND candidate_id IN (SELECT id FROM model WHERE deleted IS NOT NULL)",
)

# What earlier versions called 'withdrawn' had useless answers, unless it measured a candidate; what was taken out was
# 'closed' like retired gold, and asked of nobody.
STATE_SINCE = """CASE WHEN state = 'withdrawn' AND candidate_id IS NULL THEN 'dropped'
    WHEN state = 'closed' AND purpose = 'preference' AND asks = 'nobody' THEN 'withdrawn' ELSE state END"""

# Gold that was made of what had been taken out is that again when it is gold no more.
GOLD_OF_WITHDRAWN = """UPDATE gold_decision SET previous_state = 'withdrawn'
    WHERE action = 'make' AND previous_state = 'closed'
      AND comparison_id IN (SELECT id FROM comparison WHERE asks = 'nobody')"""

# What the answering worker keeps ready is its stock; the state of a comparison says what the page says of it.
step(
    "m028_words_of_the_page",
    """UPDATE job SET spec = json_set(json_remove(spec, '$.buffer'), '$.stock', json_extract(spec, '$.buffer'))
        WHERE kind = 'generate' AND json_type(spec, '$.buffer') NOT NULL""",
    # 'dropped': its answers came out the same or empty; 'withdrawn': an admin or a change of thinking took it out;
    # 'closed': retired gold, or judged elsewhere already.
    "DROP INDEX comparison_open",
    "DROP INDEX comparison_asked",
    "DROP INDEX comparison_standing",
    """ALTER TABLE comparison ADD COLUMN new_state TEXT NOT NULL DEFAULT 'ready'
        CHECK (new_state IN ('asked', 'writing', 'ready', 'failed', 'dropped', 'withdrawn', 'closed'))""",
    f"UPDATE comparison SET new_state = {STATE_SINCE} WHERE state != 'ready'",
    "ALTER TABLE comparison DROP COLUMN state",
    "ALTER TABLE comparison RENAME COLUMN new_state TO state",
    "CREATE INDEX comparison_open ON comparison (purpose, state, asks, model_id, assigned, taken)",
    "CREATE INDEX comparison_asked ON comparison (asked_by, purpose, state, taken) WHERE asked_by IS NOT NULL",
    """CREATE INDEX comparison_standing
        ON comparison (purpose, opinion, judged, assigned, state, asks, candidate_id)""",
    GOLD_OF_WITHDRAWN,
)

# `weights` was the precision that they are held in.
HELD_PRECISION = """UPDATE {table} SET {column} = json_set(json_remove({column}, '$.weights'),
        '$.precision', json_extract({column}, '$.weights'))
    WHERE {where} json_type({column}, '$.weights') NOT NULL"""

# What is made to settle a comparison.
SETTLE: Final = {"adjudication": "settle"}

# In these columns.
OTHER_WORDS: Final = (
    ("claim", "purpose", SETTLE),
    ("judgement", "purpose", SETTLE),
    ("model", "kind", {"reward": "reward-model"}),
    ("promotion", "action", {"rollback": "go-back", "reopen": "take-back-rejection"}),
)

ONE_WORD_IN_ROWS_TOO = (
    "ALTER TABLE model RENAME COLUMN weights TO precision",
    "ALTER TABLE response RENAME COLUMN weights TO precision",
    HELD_PRECISION.format(table="judge", column="settings", where=""),
    HELD_PRECISION.format(table="job", column="spec", where="kind IN ('precisions', 'pull') AND"),
    *(
        f"UPDATE job SET kind = '{now}', spec = json_set(spec, '$.kind', '{now}') WHERE kind = '{before}'"
        for before, now in (("generate", "answering"), ("answer", "prompt-set"))
    ),
)


@migrations()
def m029_one_word_in_rows_too(db: sqlite_utils.Database) -> None:
    """Rows say it as page and code do: the precision that weights are held in, to settle a comparison, what was decided
    on a policy, the jobs that answer, reward models."""
    for statement in ONE_WORD_IN_ROWS_TOO:
        db.execute(statement)
    # They name tables that are built anew, and words.
    made = list(db.query("SELECT * FROM sqlite_master WHERE type IN ('view', 'trigger') ORDER BY rowid"))
    for one in made:
        db.execute(f"DROP {one['type']} {one['name']}")
    for table, column, words in OTHER_WORDS:
        build_with_other_words(db, table, column, words)
    db.execute("ALTER TABLE promotion RENAME TO decision")
    for one in made:
        db.execute(with_words(one["sql"], SETTLE))


def build_with_other_words(db: sqlite_utils.Database, table: str, column: str, words: Mapping[str, str]) -> None:
    """Build a table anew, with its indexes, whose rows and constraints say other words in a column. No view or trigger
    may name it meanwhile."""
    parts = db.query(
        "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('table', 'index') AND sql NOT NULL "
        "ORDER BY type = 'index', rowid",
        [table],
    )
    definition, *indexes = (with_words(row["sql"], words) for row in parts)
    db.execute(re.sub(r"^CREATE TABLE \S+", f"CREATE TABLE new_{table}", definition))
    names = [one.name for one in db[table].columns]
    said = "".join(f" WHEN '{old}' THEN '{new}'" for old, new in words.items())
    values = [f"CASE {name}{said} ELSE {name} END" if name == column else name for name in names]
    db.execute(f"INSERT INTO new_{table} ({', '.join(names)}) SELECT {', '.join(values)} FROM {table}")
    db.execute(f"DROP TABLE {table}")
    db.execute(f"ALTER TABLE new_{table} RENAME TO {table}")
    for index in indexes:
        db.execute(index)


def with_words(sql: str, words: Mapping[str, str]) -> str:
    """A statement with other words for these texts."""
    for old, new in words.items():
        sql = sql.replace(f"'{old}'", f"'{new}'")
    return sql


# Counting the held-out prompts, which every look at the gate does, must not slow down as others are imported.
step("m030_held_out_prompts", "CREATE INDEX prompt_held_out ON prompt (split) WHERE split = 'held-out'")

# Of how many comparisons a bulk change was taken back; NULL where it was not, or by an earlier version.
step("m031_partly_undone", "ALTER TABLE bulk_change ADD COLUMN undone_for INTEGER CHECK (undone_for >= 0)")
