-- The trigger functions. Written by hand: they are raw version-1 functions, so that their errors carry
-- their own SQLSTATE.
CREATE FUNCTION aimq.realtime_trigger() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'aimq_realtime_trigger';
CREATE FUNCTION aimq.event_trigger() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'aimq_event_trigger';
