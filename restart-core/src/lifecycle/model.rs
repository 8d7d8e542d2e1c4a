//! The whole state space of a chain of generations, walked.
//!
//! A breadth-first search over every order in which messages, ends of processes, deadlines, wishes, crashes, garbage and
//! broken lines can reach up to four generations, each with a real `Lifecycle`. It checks the promises of a reload in
//! every state that can be reached, and prints the shortest way to one that breaks them. How often the outside interferes
//! is bounded; what follows by itself is not.

mod world;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};

use super::{Manager, State};
use world::{Budget, Gate, Step, World};

/// Multiplies and rotates: the states come from nobody hostile, and there are many of them.
#[derive(Default)]
struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value.cast_unsigned() as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

type Seen = HashMap<World, u32, BuildHasherDefault<FastHasher>>;

/// The walk: how each state was first reached, and what follows from it without anybody's interference.
struct Search {
    start: World,
    seen: Seen,
    came_from: Vec<(u32, Option<Step>)>,
    /// From a state to one that follows by itself; whether that takes time.
    edges: Vec<(u32, u32, bool)>,
    served: Vec<bool>,
}

/// Walks everything that can be reached, and panics with the way to the first broken promise.
fn walk(what: &str, start: World) {
    let began = std::time::Instant::now();
    let mut search = Search {
        start: start.clone(),
        seen: Seen::default(),
        came_from: vec![(0, None)],
        edges: vec![],
        served: vec![false],
    };
    search.seen.insert(start.clone(), 0);
    let mut frontier = std::collections::VecDeque::from([(start, 0)]);
    while let Some((world, at)) = frontier.pop_front() {
        let steps = world.steps();
        if let Err(broken) = check(&world, &steps) {
            search.fail(&broken, at, None);
        }
        for step in steps {
            let mut next = world.clone();
            if let Err(broken) = next.take(step) {
                search.fail(&broken, at, Some(step));
            }
            let new = u32::try_from(search.came_from.len()).expect("states fit");
            let to = *search.seen.entry(next).or_insert_with_key(|next| {
                search.came_from.push((at, Some(step)));
                search
                    .served
                    .push(next.unit_ended || next.stop_wished || next.is_served() || next.live().next().is_none());
                frontier.push_back((next.clone(), new));
                new
            });
            if !step.is_wish() {
                search.edges.push((at, to, step.takes_time()));
            }
        }
    }
    search.everything_ends();
    search.service_comes_back_at_once();
    println!("{what}: {} states, {} steps, {:?}", search.came_from.len(), search.edges.len(), began.elapsed());
}

/// What has to hold in each state by itself.
fn check(world: &World, steps: &[Step]) -> Result<(), String> {
    let live = world.live().count();
    let mains: Vec<usize> = world.live().filter(|(_, process)| process.is_main()).map(|(who, _)| who).collect();
    if mains.len() > 1 {
        return Err(format!("the processes {mains:?} are each the main one"));
    }
    for (who, process) in world.live() {
        let state = process.lifecycle.state();
        if (process.gate == Gate::Open) != process.lifecycle.accepts() {
            return Err(format!("process {who} is {state:?} and its gate is {:?}", process.gate));
        }
        if !process.is_counted() {
            return Err(format!("process {who} counts {} older generations wrongly", process.lifecycle.older()));
        }
        if *state == State::Exited {
            return Err(format!("process {who} has nothing left to do and lives on"));
        }
    }
    if world.unit_ended {
        return Ok(());
    }
    let by_itself = || steps.iter().filter(|step| !step.is_wish());
    if live == 0 && by_itself().next().is_none() && !world.stop_wished && !world.death_excused {
        return Err("everybody has left, and nobody was told to stop".to_owned());
    }
    if live > 0 && !world.stop_wished && !world.is_served() && by_itself().all(Step::takes_time) {
        return Err("nobody accepts, and nothing but time can change it".to_owned());
    }
    if by_itself().next().is_some() && by_itself().all(Step::is_drain_deadline) && !world.anybody_is_deaf() {
        return Err("nothing is in flight, and a process waits for its deadline".to_owned());
    }
    if by_itself().next().is_some() || live == 0 {
        return Ok(());
    }
    // Nothing goes on any more.
    if world.stop_wished && !world.stop_excused {
        return Err("the service was told to stop, and somebody lives on".to_owned());
    }
    if mains.len() != 1 || live != 1 {
        return Err(format!("at rest {live} processes live, and the main ones are {mains:?}"));
    }
    let (_, process) = world.live().next().expect("one lives");
    if !matches!(process.lifecycle.state(), State::Serving { settled: true }) {
        return Err(format!("at rest the last process is {:?}", process.lifecycle.state()));
    }
    Ok(())
}

impl Search {
    /// Without interference everything comes to rest: what follows by itself never goes round in circles.
    fn everything_ends(&self) {
        let mut waiting = vec![0_u32; self.came_from.len()];
        let mut after: Vec<Vec<u32>> = vec![vec![]; self.came_from.len()];
        for &(from, to, _) in &self.edges {
            after[from as usize].push(to);
            waiting[to as usize] += 1;
        }
        let mut free: Vec<u32> = (0..).zip(&waiting).filter(|(_, count)| **count == 0).map(|(at, _)| at).collect();
        let mut ordered = 0;
        while let Some(at) = free.pop() {
            ordered += 1;
            for &to in &after[at as usize] {
                waiting[to as usize] -= 1;
                if waiting[to as usize] == 0 {
                    free.push(to);
                }
            }
        }
        if ordered < waiting.len() {
            let circle = self.a_circle(&waiting);
            self.fail("the processes can go round in circles", circle, None);
        }
    }

    /// A state on a circle: from one that waits for others, back to those that it waits for, until one comes again.
    fn a_circle(&self, waiting: &[u32]) -> u32 {
        let mut here = (0..).zip(waiting).find(|(_, count)| **count > 0).map_or(0, |(at, _)| at);
        let mut been = std::collections::HashSet::new();
        while been.insert(here) {
            let before = self.edges.iter().find(|(from, to, _)| *to == here && waiting[*from as usize] > 0);
            here = before.map_or(here, |(from, ..)| *from);
        }
        here
    }

    /// From every state, what takes no time leads to one in which somebody accepts. Such steps come to an end, and
    /// `check` refuses an end at which nobody accepts; this looks at the same from the other side.
    fn service_comes_back_at_once(&self) {
        let mut before: Vec<Vec<u32>> = vec![vec![]; self.came_from.len()];
        for &(from, to, takes_time) in &self.edges {
            if !takes_time {
                before[to as usize].push(from);
            }
        }
        let mut good = self.served.clone();
        let mut todo: Vec<u32> = (0..).zip(&good).filter(|(_, good)| **good).map(|(at, _)| at).collect();
        while let Some(at) = todo.pop() {
            for &from in &before[at as usize] {
                if !std::mem::replace(&mut good[from as usize], true) {
                    todo.push(from);
                }
            }
        }
        for (world, &at) in &self.seen {
            if !good[at as usize] && world.live().next().is_some() {
                self.fail("nobody accepts, and nobody will", at, None);
            }
        }
    }

    /// Prints how it came to this, and panics.
    fn fail(&self, broken: &str, at: u32, last: Option<Step>) -> ! {
        let mut steps: Vec<Step> = last.into_iter().collect();
        let mut here = at;
        while let (before, Some(step)) = self.came_from[here as usize] {
            steps.push(step);
            here = before;
        }
        let mut world = self.start.clone();
        let mut trace = String::new();
        for (number, step) in (1..).zip(steps.into_iter().rev()) {
            let _ = writeln!(trace, "{number:3}. {step:?}");
            let result = world.take(step);
            for (who, process) in world.live() {
                let (state, gate) = (process.lifecycle.state(), process.gate);
                let _ = writeln!(trace, "       process {who}: {state:?}, gate {gate:?}");
            }
            if let Err(broken) = result {
                let _ = writeln!(trace, "     ! {broken}");
            }
        }
        panic!("{broken}, after\n{trace}");
    }
}

/// Walks without a service manager, with one, and with a supervisor.
fn walk_all(generations: usize, max_draining: u8, budget: Budget) {
    for follower in [Manager::None, Manager::Restarts, Manager::Follows] {
        walk_one(generations, follower, max_draining, budget);
    }
}

fn walk_one(generations: usize, follower: Manager, max_draining: u8, budget: Budget) {
    let what = format!("{generations} generations, followed by {follower:?}, {budget:?}");
    walk(&what, World::new(generations, follower, max_draining, budget));
}

/// Nothing comes from outside; the walks say what does.
const NOTHING: Budget = Budget { reloads: 0, stops: 0, crashes: 0, garbage: 0, breaks: 0, plain: false };

#[test]
fn two_generations_keep_their_promises_whatever_happens() {
    walk_all(2, 1, Budget { reloads: 2, stops: 1, crashes: 2, ..NOTHING });
    walk_all(2, 1, Budget { reloads: 1, stops: 2, crashes: 1, ..NOTHING });
}

#[test]
fn two_generations_keep_their_promises_whatever_arrives() {
    walk_all(2, 1, Budget { reloads: 1, crashes: 1, garbage: 2, ..NOTHING });
    walk_all(2, 1, Budget { reloads: 1, stops: 1, crashes: 1, garbage: 1, ..NOTHING });
    walk_all(2, 1, Budget { reloads: 1, stops: 1, crashes: 1, breaks: 1, ..NOTHING });
}

#[test]
fn three_generations_keep_their_promises_whatever_happens() {
    // The largest of them, with the follower that has most to say.
    walk_one(3, Manager::Restarts, 2, Budget { reloads: 2, crashes: 1, ..NOTHING });
    walk_all(3, 2, Budget { reloads: 2, stops: 1, crashes: 2, plain: true, ..NOTHING });
}

#[test]
fn three_generations_keep_their_promises_whatever_arrives() {
    walk_all(3, 2, Budget { reloads: 2, crashes: 1, garbage: 1, plain: true, ..NOTHING });
    walk_all(3, 2, Budget { reloads: 2, crashes: 1, breaks: 1, plain: true, ..NOTHING });
}

#[test]
fn four_generations_keep_their_promises() {
    walk_one(4, Manager::Restarts, 3, Budget { reloads: 3, crashes: 1, plain: true, ..NOTHING });
    walk_one(4, Manager::None, 3, Budget { reloads: 3, garbage: 1, plain: true, ..NOTHING });
}
