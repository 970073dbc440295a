//! `mainstay db migrate --drift`: the schema that is there beside the one that the applied migrations make.

use mainstay_controller::backups::scratch::Scratch;
use mainstay_postgres::migrate::{self, Difference, Drifted, Request, State};
use mainstay_types::exit_code;
use serde_json::json;

use super::{Place, backup, failure, on_copy};
use crate::Global;
use crate::failure::Failure;
use crate::screen;

pub(super) async fn run(global: &Global, place: &Place) -> Result<u8, Failure> {
    let plan = migrate::plan(&place.application, &place.folder).await.map_err(|error| failure(&error))?;
    plan.can_be_made().map_err(|error| failure(&error))?;
    if !global.json {
        eprintln!("running the applied migrations on an empty database beside the present");
    }
    let scratch = Scratch::open(&place.paths, &place.stack).await.map_err(|error| backup::failure(&error))?;
    let request = Request {
        application: &scratch.application,
        superuser: &scratch.superuser,
        folder: &place.folder,
        is_out_of_order_allowed: true,
        held: &[],
    };
    let made = migrate::made(&plan, &request).await;
    scratch.close().await;
    let made = made.map_err(|error| on_copy("on the empty database beside the present", failure(&error)))?;
    let present = place.superuser.as_in_same(&place.application);
    let there = migrate::objects(&present).await.map_err(|error| failure(&error))?;
    let found = migrate::compare(&there, &made);
    let applied = plan.migrations.iter().filter(|one| one.state == State::Applied).count();
    if global.json {
        println!("{:#}", json!({"applied": applied, "objects": there.len(), "differences": found}));
        return Ok(if found.is_empty() { exit_code::DONE } else { exit_code::FAILED });
    }
    if found.is_empty() {
        println!("{} objects are as the {applied} applied migrations make them", there.len());
        return Ok(exit_code::DONE);
    }
    found.iter().for_each(|one| println!("{}", line(one)));
    Err(Failure::failed(
        "MS1122",
        format!("{} objects are other than the {applied} applied migrations make them", found.len()),
    )
    .help(
        "put what is wanted into a new migration, written so that it bears what is there; take the rest back by hand",
    ))
}

fn line(one: &Drifted) -> String {
    let (how, more) = match &one.difference {
        Difference::Extra => ("extra", None),
        Difference::Gone => ("gone", None),
        Difference::Other { there, made } => ("other", Some((there, made))),
    };
    let head = screen::wrap(&one.object, &format!("{how:<6} "), "       ");
    match more {
        None => head,
        Some((there, made)) => format!(
            "{head}\n{}\n{}",
            screen::wrap(there, "         there: ", "           "),
            screen::wrap(made, "         made:  ", "           ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_differs_is_told_in_eighty_columns_with_both_definitions() {
        let difference =
            Difference::Other { there: "text NOT NULL ".repeat(9), made: "character varying(20)".to_owned() };
        let text = line(&Drifted { object: "column public.users.email".to_owned(), difference });
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.starts_with("other  column public.users.email\n         there: text"), "{text}");
        let gone = line(&Drifted { object: "index public.i".to_owned(), difference: Difference::Gone });
        assert_eq!(gone, "gone   index public.i");
    }
}
