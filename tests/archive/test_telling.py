"""What subscribers hear of kept files comes after a job's end, which stays the end of the job's own stream."""

from __future__ import annotations

from tests.archive.stories import Archive
from tests.media import png
from tests.sources import Source


async def test_a_jobs_stream_is_over_with_the_job_though_its_files_are_told_of_later(
    archive: Archive, source: Source
) -> None:
    """A browser that saw the end comes back with its number, and would come back for ever unless it is told to stay away."""
    job_id = await archive.job({"images": [source.serve("a.png", png())]})
    await archive.settled(job_id)
    end, kept = await archive.events(job_id, "job.completed", "job.archived")
    assert (end["type"], kept["type"]) == ("job.completed", "job.archived")
    stream = f"/v1/jobs/{job_id}/events/stream"
    for number in (end["sequence"], kept["sequence"]):
        assert (await archive.get(stream, Last_Event_ID=str(number))).status_code == 204
    async with archive.service.caller.http.stream("GET", f"{stream}?after={end['sequence'] - 1}") as answer:
        told = (await answer.aread()).decode()
    assert ("event: job.completed" in told, "event: job.archived" in told) == (True, False)
