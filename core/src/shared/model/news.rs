//! What the watcher is told while it takes what it was told before; and who is rung for that.

use loom::thread::spawn;

use super::world::{A, World, check};
use crate::shared::News;

#[test]
fn what_is_told_while_news_are_taken_is_not_lost() {
    check(|| {
        let world = World::new([A, A]);
        let _ = world.database.tell(News::QUEUES);
        let teller = {
            let world = world.clone();
            spawn(move || world.database.tell(News::FINISHED).watcher)
        };
        let taken = world.database.news();
        let has_rung = teller.join().unwrap();
        let rest = world.database.news();
        assert!((taken | rest).has(News::QUEUES | News::FINISHED), "lost: what was told");
        assert!(has_rung, "lost: nobody was rung for what nobody had told");
    });
}
