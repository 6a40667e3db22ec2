"""The upstream's operations that make no job, passed through: models, uploads, assets, LoRAs, and who one is.

    api          the routes              passing      a request up and its answer down, cleaned of what is nobody's affair
    belongings   which team made what    loras        a team's own LoRAs, picked out of the account's pages
    me           the caller's own key    cursors      places in the upstream's lists, sealed
    queries      their SQL

Nothing is queued here, and nothing is sent twice: bodies pass piece by piece, and whoever sent one hears what became of it.
What the upstream keeps under an id belongs to the team whose call made it, from before that team hears of the id. To every
other team it does not exist: 404, in the upstream's words, without asking the upstream.
"""
