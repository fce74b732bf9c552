import sqlalchemy as sa

from pushsvc import JobContext, Service

service = Service()  # settings from PUSHSVC_*
n = sa.select(sa.func.generate_series(1, 1_000_000).label("n")).subquery().c.n


@service.job(timeout=30)
async def report(ctx: JobContext, over: int = 1000) -> dict[str, float | None]:
    count = ctx.db.async_count(sa.select(n).where(n > over))  # starts now
    mean = ctx.db.async_average(n, where=n > over)  # beside it
    most = ctx.db.async_maximum(n)  # and this one too
    await ctx.progress(0.1, "three queries are running")
    return {"count": await count, "mean": await mean, "max": await most}
